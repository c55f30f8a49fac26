"""Keys and values of earlier positions, for causal attention that is given one position after the other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class Cache:
    """Keys and values of one layer, for as many positions as there can be; allocated once, with the first ones."""

    def __init__(self, positions: int) -> None:
        self.positions, self.done = positions, 0
        self.keys = self.values = torch.empty(0)

    def extend(
        self, keys: Float[Tensor, "b h n d"], values: Float[Tensor, "b h n d"]
    ) -> tuple[Float[Tensor, "b h m d"], Float[Tensor, "b h m d"]]:
        """All keys and values so far, these among them."""
        if not self.done:
            batch, heads, _, width = keys.shape
            self.keys = keys.new_zeros(batch, heads, self.positions, width)
            self.values = torch.zeros_like(self.keys)
        start, self.done = self.done, self.done + keys.shape[2]
        self.keys[:, :, start : self.done] = keys
        self.values[:, :, start : self.done] = values
        return self.keys[:, :, : self.done], self.values[:, :, : self.done]
