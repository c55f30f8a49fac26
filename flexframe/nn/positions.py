"""Learned positions of a grid, brought to another grid."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def resize_positions(
    table: Float[Tensor, "n e"], before: tuple[int, int], after: tuple[int, int]
) -> Float[Tensor, "m e"]:
    """A table of one row a cell (row by row), stretched to another grid: bicubic, antialiased where it shrinks.

    Raises:
        ValueError: the table is not of the grid `before`.
    """
    if len(table) != before[0] * before[1]:
        raise ValueError(f"a table of {len(table)} positions is not one of {before[0]} x {before[1]}")
    if before == after:
        return table
    grid = rearrange(table.float(), "(y x) e -> 1 e y x", y=before[0])
    resized = F.interpolate(grid, after, mode="bicubic", antialias=True)
    return rearrange(resized, "1 e y x -> (y x) e").to(table.dtype)
