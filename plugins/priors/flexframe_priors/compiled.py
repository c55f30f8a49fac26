"""A causal transformer's step of one position, compiled."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary
from zlib import crc32

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe_registry import ConfigError

from .steps import Layer, stream, through

LIMITS = dict.fromkeys(("recompile_limit", "accumulated_recompile_limit"), 1 << 16)
"""Steps that the compiler may keep: one a prior and number of rows, where by its own limit it gives up after eight."""
KERNELS = {"max_autotune": True, "max_autotune_gemm_backends": "CPP"}
"""The compiler's own products on a CPU: they read weights of a few rows at the rate of one's."""

_held: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], dict[int, Compiled]]] = WeakKeyDictionary()


class Compiled:
    """A step that is compiled at its first call.

    On a CPU weights are constants of it, packed as its products read them, and it attends to the positions that are
    there; on CUDA shapes are the same at each position, so that all of it is one graph.
    """

    def __init__(self, layers: Sequence[Layer], heads: int) -> None:
        like = layers[0].qkv
        self.whole, self.told = like.is_cuda, False
        self.packed = _packed(like)
        how: dict[str, Any] = {"mode": "reduce-overhead"} if self.whole else {}
        if self.packed:
            how = {"options": KERNELS}
        self.step = torch.compile(_Step(layers, heads), fullgraph=True, dynamic=False, **how)

    def __call__(
        self,
        x: Float[Tensor, "b 1 w"],
        places: Int[Tensor, " m"],
        end: int,
        turns: Float[Tensor, "2 3 1 1 m d"] | None,
        kept: Sequence[Float[Tensor, "2 b h m d"]],
        seen: Bool[Tensor, "b 1 1 n"] | None,
        known: list[Float[Tensor, "2 b h k d"]],
        present: Bool[Tensor, "b k"] | None,
    ) -> Float[Tensor, "b 1 w"]:
        """Compute position `end` - 1 of all `places`; keys and values are laid into `kept`.

        Raises:
            ConfigError: there is no C++ compiler, and a CPU's step needs one.
        """
        import torch._dynamo as dynamo  # loads the compiler
        import torch._inductor.config as inductor

        place, among = places[end - 1 : end], places[:end]
        if self.whole:
            among = places
            seen = (places <= place)[None, None, None] if seen is None else F.pad(seen, (0, len(places) - end))
        if not self.whole and not self.told:
            need_compiler()
            self.told = True
            for each in (*known, *kept):
                dynamo.mark_dynamic(each, 3)
            for tensor, dim in ((among, 0), (seen, 3), (present, 1), (turns, 4)):
                if tensor is not None:
                    dynamo.mark_dynamic(tensor, dim)
        with dynamo.config.patch(LIMITS), inductor.patch(freezing=self.packed):
            out: Tensor = self.step(x, place, among, turns, kept, seen, known, present)
        return out


def need_compiler() -> None:
    """Refuse to compile for a CPU where there is nothing to do it with.

    Raises:
        ConfigError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler  # loads the compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        told = "needs a C++ compiler; install g++, name one in $CXX, or leave it out"
        raise ConfigError.at("sampling.compile", told) from None


class _Step(nn.Module):
    numbers = count()

    def __init__(self, layers: Sequence[Layer], heads: int) -> None:
        super().__init__()
        self.layers, self.heads = nn.ModuleList(layers), heads
        self.number = next(_Step.numbers)

    def forward(
        self,
        x: Float[Tensor, "b 1 w"],
        place: Int[Tensor, " 1"],
        among: Int[Tensor, " n"],
        turns: Float[Tensor, "2 3 1 1 m d"] | None,
        kept: Sequence[Float[Tensor, "2 b h m d"]],
        seen: Bool[Tensor, "b 1 1 n"] | None,
        known: list[Float[Tensor, "2 b h k d"]],
        present: Bool[Tensor, "b k"] | None,
    ) -> Float[Tensor, "b 1 w"]:
        """Position `place`, which attends to those `among`, where `seen`."""

        def keep(i: int, pair: Tensor) -> tuple[Tensor, Tensor]:
            every = kept[i][..., : among.shape[0], :]
            every.index_copy_(3, place, pair)
            return every[0], every[1]

        assert self.number >= 0  # the compiler tells steps apart by what they read, or takes another's weights
        turn = None if turns is None else turns.index_select(-2, place)
        x, normed = stream(x)
        return through(self.layers, self.heads, x, normed, turn, keep, seen, known, present)


def compiled_step(prior: nn.Module, layers: Sequence[Layer], heads: int, rows: int) -> Compiled:
    """The step of a prior's layers for so many rows; the one of an earlier draw, while weights are the same."""
    weights = [p.detach() for layer in layers for p in layer.parameters()]
    state = tuple(_told_apart(each) for each in weights)
    if prior not in _held or _held[prior][0] != state:
        _held[prior] = state, {}
    steps = _held[prior][1]
    if rows not in steps:
        steps[rows] = Compiled(layers, heads)
    return steps[rows]


def _told_apart(weight: Tensor) -> tuple[torch.device, torch.dtype, int]:
    """What differs where a step needs to be compiled anew: of constants their bytes, as fused optimizers and `.data`
    change these without a trace, in a fiftieth of a draw of 256 codes; else the address, whose values a step reads."""
    what = weight.data_ptr()
    if _packed(weight):
        what = crc32(weight.contiguous().view(torch.uint8).numpy())
    return weight.device, weight.dtype, what


def _packed(weight: Tensor) -> bool:
    """Say whether such weights are constants of a step."""
    return weight.device.type == "cpu" and weight.dtype != torch.float64
