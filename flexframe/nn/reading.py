"""Texts as priors read them: attended to by every block, or standing before the codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend
from flexframe.tokens import Condition


@dataclass(frozen=True, slots=True)
class Context:
    """The text of each row, as a prior reads it; behind them the null text as often, where guidance needs it."""

    vectors: Float[Tensor, "b n w"]
    """In the prior's width."""
    present: Bool[Tensor, "b n"]
    known: list[Tensor]
    """Keys and values by block, the same at every step; none where the text stands before the codes."""

    def chunk(self, parts: int) -> list[Context]:
        """Equal parts of the rows, in order."""
        known = [each.chunk(parts, 1) for each in self.known]
        pairs = zip(self.vectors.chunk(parts), self.present.chunk(parts), strict=True)
        return [Context(*pair, [each[i] for each in known]) for i, pair in enumerate(pairs)]

    def before(self, count: int, keys: int) -> Bool[Tensor, "b 1 m k"]:
        """True where one of the last `count` of so many positions may attend to one, this text standing before all."""
        known = F.pad(self.present, (0, keys - self.present.shape[1]), value=True)
        place = torch.arange(keys, device=known.device)
        own = place[keys - count :, None]
        seen = (place <= own) & (known[:, None] | (place == own))  # an absent one sees itself, and is seen by none
        return seen[:, None]


class Reading(nn.Module):
    """Attention to a text behind a norm of its own: 4 w^2 parameters. Every block of a generator has it in arXiv
    2301.00704 (Muse), 2502.13967 (section 4) and 2410.13863 (Fluid)."""

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


def text_input(inner: int, width: int) -> nn.Sequential:
    """The layers that bring a text's vectors into a prior's width, so that it is read from the first step on."""
    layers = nn.Sequential(nn.Linear(inner, inner), nn.GELU("tanh"), nn.Linear(inner, width))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
    return layers


def read(
    text: nn.Module | None, readings: Iterable[Reading | None], condition: Condition | None, guided: bool = False
) -> Context | None:
    """The texts of a condition, where a prior reads some.

    Args:
        text: as `text_input` gives it; None of a prior without texts.
        readings: of the prior's blocks, in order.
        guided: read those of its rows, and behind them as many null ones.

    Raises:
        ValueError: there are none.
    """
    if text is None:
        return None
    if condition is None or condition.embeddings is None or condition.present is None:
        raise ValueError("this prior is conditioned on texts; give their embeddings, a row's or the null text's")
    both = [condition, condition.hidden(torch.ones_like(condition.null))] if guided else [condition]
    vectors = text(torch.cat([each.embeddings for each in both if each.embeddings is not None]))
    present = torch.cat([each.present for each in both if each.present is not None])
    return Context(vectors, present, [each.known(vectors) for each in readings if each is not None])
