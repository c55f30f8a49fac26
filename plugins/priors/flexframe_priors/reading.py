"""Texts as priors read them: attended to by every block, or standing before the codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend


@dataclass(frozen=True, slots=True)
class Context:
    """The text of each row, as a prior reads it."""

    vectors: Float[Tensor, "b n w"]
    """In the prior's width."""
    present: Bool[Tensor, "b n"]
    known: list[Tensor]
    """Keys and values by block, the same at every step; none where the text stands before the codes."""

    def before(self, count: int, keys: int) -> Bool[Tensor, "b 1 m k"]:
        """True where one of the last `count` of so many positions may attend to one, this text standing before all."""
        known = F.pad(self.present, (0, keys - self.present.shape[1]), value=True)
        place = torch.arange(keys, device=known.device)
        own = place[keys - count :, None]
        seen = (place <= own) & (known[:, None] | (place == own))  # an absent one sees itself, and is seen by none
        return seen[:, None]


class Reading(nn.Module):
    """Attention to a text behind a norm of its own: 4 w^2 parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.RMSNorm(width, eps=1e-5)
        self.query = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def known(self, vectors: Float[Tensor, "b k w"]) -> Float[Tensor, "2 b h k d"]:
        """Keys and values of a text, which are the same at every step."""
        pairs: Tensor = self.kv(vectors).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return pairs

    def forward(
        self, x: Float[Tensor, "b m w"], known: Float[Tensor, "2 b h k d"], present: Bool[Tensor, "b k"]
    ) -> Float[Tensor, "b m w"]:
        query = self.query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = attend(query, known[0], known[1], present[:, None, None])
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return out
