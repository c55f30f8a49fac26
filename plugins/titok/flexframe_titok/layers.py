"""What runs inside a model: the outputs of its layers in one pass, by the names that golden cases give them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

LAYER = re.compile(r"(?P<name>patch_embed|embed|ln_pre|ln_post|block(?P<block>\d+)_out)")


def layer_of(part: nn.Module, name: str) -> nn.Module:
    """The layer of a part that a golden name means: `patch_embed`, `embed`, `ln_pre`, `block3_out`, `ln_post`.

    Raises:
        LookupError: the part has no such layer.
    """
    match = LAYER.fullmatch(name)
    if match is None:
        raise LookupError(f"layer {name!r}; nothing here is compared with it")
    own = f"blocks.{match['block']}" if match["block"] else {"embed": "decoder_embed"}.get(name, name)
    try:
        return part.get_submodule(own)
    except AttributeError:
        raise LookupError(f"layer {name!r} in this model") from None


@contextmanager
def watched(layer: nn.Module) -> Iterator[list[Tensor]]:
    """A list that a layer's outputs are added to while it runs."""
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _layer, _inputs, out: seen.append(out))
    try:
        yield seen
    finally:
        hook.remove()


def output_of(layer: nn.Module, run: Callable[[], object]) -> Tensor:
    """The output of a layer when something is run that passes it once."""
    with watched(layer) as seen:
        run()
    (out,) = seen
    return out
