"""Token sequences in levels, each as long as all before it: slots 0, 1, 2 to 3, 4 to 7, and so on.

The last level of a sequence whose length is no power of two is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def level_sizes(length: int) -> list[int]:
    """Slots of each level of a sequence."""
    starts = [0, *(1 << i for i in range((length - 1).bit_length()))]
    return [end - start for start, end in zip(starts, [*starts[1:], length], strict=True)]


def numbered(sizes: Sequence[int], device: torch.device) -> Int[Tensor, " n"]:
    """Each position's level, of levels of these sizes in a row."""
    return torch.tensor([level for level, size in enumerate(sizes) for _ in range(size)], device=device)


def level_grids(length: int) -> list[tuple[int, int]]:
    """Rows and columns by which each level, were it whole, covers an image: 1 x 1 twice, then 1 x 2, 2 x 2, 2 x 4."""
    doublings = [0, *range(len(level_sizes(length)) - 1)]
    return [(2 ** (i // 2), 2 ** ((i + 1) // 2)) for i in doublings]


class ByLevel(nn.Module):
    """A linear map for each level of `length` slots; a shorter sequence takes the first ones."""

    def __init__(self, length: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.sizes = level_sizes(length)
        self.maps = nn.ModuleList(nn.Linear(width_in, width_out) for _ in self.sizes)

    def forward(self, x: Float[Tensor, "b k i"]) -> Float[Tensor, "b k o"]:
        starts = [min(sum(self.sizes[:i]), x.shape[1]) for i in range(len(self.sizes) + 1)]
        # a level that is not there has an empty share, so that its map has a gradient, which is zero
        parts = [x[:, start:end] for start, end in pairwise(starts)]
        return torch.cat([linear(part) for linear, part in zip(self.maps, parts, strict=True)], 1)


def first_levels(state: Mapping[str, Tensor], name: str, length: int) -> dict[str, Tensor]:
    """A part's tensors for a sequence of `length`, of which those of its `ByLevel` of a longer one are left out."""
    maps, levels = f"{name}.maps.", len(level_sizes(length))
    return {
        key: value
        for key, value in state.items()
        if not key.startswith(maps) or int(key.removeprefix(maps).partition(".")[0]) < levels
    }
