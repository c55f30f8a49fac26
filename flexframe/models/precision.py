"""Precision and gradients of models at use: weights below float32, and who asked for a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

LOW = frozenset({torch.bfloat16, torch.float16})
"""Types below float32 that weights may have."""


def below(model: nn.Module) -> torch.dtype | None:
    """The type below float32 that a model's weights are in, if any is.

    Raises:
        ValueError: they are in several, or in another.
    """
    types = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if len(types) > 1 or not types <= LOW:
        held, known = ", ".join(sorted(map(name, types))), "float32, bfloat16 or float16"
        raise ValueError(f"a model is used in {known}, and has weights in {held}; bring it to one: model.float()")
    return next(iter(types), None)


def precision(model: nn.Module, device: torch.device) -> str:
    """The floating type that a model computes in, by torch's name: its weights', or that of an autocast around it.

    Raises:
        ValueError: weights of a type that it cannot be used in.
    """
    if torch.is_autocast_enabled(device.type):
        return name(torch.get_autocast_dtype(device.type))
    return name(below(model) or torch.float32)


def name(dtype: torch.dtype) -> str:
    """A type as people write it: `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def exact(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of tensors that leaves float32 where it would go below: of the device alone."""

    def changed(tensor: Tensor) -> Tensor:
        result = change(tensor)
        return tensor.to(result.device) if tensor.dtype == torch.float32 and result.dtype in LOW else result

    return changed


@contextmanager
def use(model: nn.Module, given: Tensor | None, device: torch.device, double: bool = False) -> Iterator[None]:
    """A region in which gradients are on if the caller has them on and `given` requires one, and weights below float32
    meet what they are multiplied with in their own type, as in training with autocast. With `double`, which is for
    models that are given no images, weights may be in float64 too."""
    whole = double and all(p.dtype == torch.float64 for p in model.parameters() if p.is_floating_point())
    low, wanted = None if whole else below(model), torch.is_grad_enabled() and given is not None and given.requires_grad
    cast = nullcontext() if low is None else torch.autocast(device.type, low)
    with torch.set_grad_enabled(wanted), cast:
        yield
