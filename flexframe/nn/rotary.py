"""Rotary positions over several axes (RoFormer, arXiv 2104.09864): neighbouring channels of a head are one plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def angles(
    positions: Float[Tensor, "n axes"], widths: Sequence[int], theta: float = 10000.0
) -> Float[Tensor, "n planes 2"]:
    """Cosine and sine of each position's turn in each plane, computed in float64.

    Args:
        positions: coordinates by axis.
        widths: channels of a head that turn with each axis, in order; each is even.
        theta: base of the frequencies, which fall within an axis from 1 towards 1/theta.
    """
    turns = []
    for axis, width in zip(positions.double().unbind(-1), widths, strict=True):
        rates = theta ** -(torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width)
        turns.append(axis[:, None] * rates)
    turn = torch.cat(turns, -1)
    return torch.stack([turn.cos(), turn.sin()], -1).float()


def rotated(x: Float[Tensor, "b h n d"], turns: Float[Tensor, "n planes 2"]) -> Float[Tensor, "b h n d"]:
    """Queries or keys, turned by their positions; computed in float32."""
    first, second = rearrange(x.float(), "... (planes two) -> two ... planes", two=2)
    cosine, sine = turns.unbind(-1)
    turned = torch.stack([first * cosine - second * sine, first * sine + second * cosine], -1)
    return turned.flatten(-2).to(x.dtype)
