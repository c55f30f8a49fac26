"""Models from their configs: with random weights, or with tensors that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexframe.models.codec import CodecModel
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import ConfigError, ModelConfig
from flexframe_registry.catalogue import attribute

Model = Tokenizer | Generator | CodecModel


def assemble(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    where: str,
    sampling: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> Model:
    """A model of this config with these tensors, in evaluation mode.

    Args:
        where: the model's name in errors.
        sampling: settings of use.
        names: the tensors' names in the file that they are from, where those are others.

    Raises:
        ConfigError: tensors left over, missing or misshapen; all are listed.
    """
    with undrawn():
        model = build(config, sampling)
    own, theirs = model.state_dict(), names or {}

    def told(name: str) -> str:
        return f"{name} (there {theirs[name]})" if theirs.get(name, name) != name else name

    problems = [f"missing {told(name)}" for name in own.keys() - state.keys()]
    problems += [f"left over {told(name)}" for name in state.keys() - own.keys()]
    problems += [
        f"{told(name)} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if problems:
        raise ConfigError.at(where, "its tensors do not fit its config: " + "; ".join(sorted(problems)))
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()}, assign=True)
    return model.eval()


def build(config: ModelConfig, sampling: Mapping[str, Any] | None = None) -> Model:
    """A model of this config with random weights."""
    model: Model = attribute(config.target)(config, sampling)
    return model


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors in which a value is not finite; one answer of the device for all of them."""
    floats = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    if not floats:
        return []
    device = next(iter(floats.values())).device
    # the least and the most are not finite where any value is not, and take no memory as a look at each does
    ends = [torch.stack(value.detach().aminmax()).isfinite().all() for value in floats.values()]
    whole = torch.stack([finite.to(device, non_blocking=True) for finite in ends])
    return [name for name, finite in zip(floats, whole.tolist(), strict=True) if not finite]


def told(names: Sequence[str]) -> str:
    """The sentence about tensors that are `not_finite`."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} {'are' if more else 'is'} not finite"


class _Undrawn(TorchFunctionMode):
    """Leaves the in-place draws of initializers out: what they would fill is about to be replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        if func is Tensor.normal_:
            return args[0].zero_()  # truncated draws repeat until they lie within bounds: leave nothing to chance
        return func(*args, **(kwargs or {}))


@contextmanager
def undrawn() -> Iterator[None]:
    """Build a model without drawing its weights: minutes less for billions of parameters."""
    with _Undrawn():
        yield
