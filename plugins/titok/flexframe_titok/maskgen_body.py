"""MaskGen's transformer: tokens and a text, each with weights of its own, attend to all of both together (MM-DiT, Esser
et al., arXiv 2403.03206), modulated by the pooled text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.attention import attend
from flexframe.nn.priors import class_ids
from flexframe.tokens import Condition
from flexframe_registry import CodesSpec


@dataclass(frozen=True, slots=True)
class Said:
    """Condition of a prior, as its blocks read it; and the same without a condition."""

    vectors: Float[Tensor, "b n w"]
    present: Bool[Tensor, "b n"]
    pooled: Float[Tensor, "b w"]
    free: Said | None = None

    def both(self) -> Said:
        """Rows, and behind them as many without a condition."""
        assert self.free is not None
        pairs = ((getattr(one, name) for one in (self, self.free)) for name in ("vectors", "present", "pooled"))
        return Said(*(torch.cat(list(pair)) for pair in pairs))


Sinusoid = Literal["halves", "pairs"]


def score_sinusoid(scores: Float[Tensor, " b"], width: int, form: Sinusoid) -> Float[Tensor, "b w"]:
    """A hundred times a score at many frequencies: sines, then cosines, of frequencies down to 1/1000; or in turns,
    down to 1/10000."""
    at, base = torch.arange(width // 2, device=scores.device) / (width // 2), 1000 if form == "halves" else 10_000
    angles = 100 * scores[:, None] * torch.exp(-math.log(base) * at)
    waves = [angles.sin(), angles.cos()]
    return torch.cat(waves, -1) if form == "halves" else torch.stack(waves, -1).flatten(1)


class Reader(nn.Module):
    """A condition's text, or its class, in the width of the blocks.

    Args:
        scores: width of the sinusoid of an aesthetic score.
        form: of that sinusoid.
    """

    def __init__(self, spec: CodesSpec, width: int, scores: int, form: Sinusoid) -> None:
        super().__init__()
        self.spec, self.scores, self.form = spec, scores, form
        self.text = self.classes = None
        inner = width
        if spec.text is None:
            self.classes = nn.Embedding((spec.classes or 0) + 1, width)
        else:
            self.text, inner = nn.Linear(spec.text.width, width), spec.text.pooled or spec.text.width
        self.pooled = nn.Linear(inner + scores, width)

    def forward(self, condition: Condition, scores: Float[Tensor, " b"]) -> Said:
        """Read a condition of as many rows as there are scores.

        Raises:
            ValueError: texts are wanted, and there are none.
        """
        if self.text is None:
            assert self.classes is not None
            rows = class_ids(condition, self.spec.classes, len(scores), scores.device)
            pooled = self.classes(rows)
            vectors, present = pooled[:, None], torch.ones_like(rows, dtype=torch.bool)[:, None]
        else:
            if condition.embeddings is None or condition.present is None:
                raise ValueError("this prior is conditioned on texts; give their embeddings, or the null text's")
            present, given = condition.present, condition.embeddings.to(self.text.weight.dtype)
            vectors = self.text(given)
            pooled = condition.pooled
            if pooled is None:
                pooled = (given * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        if self.scores:
            pooled = torch.cat([pooled, score_sinusoid(scores, self.scores, self.form).to(pooled)], -1)
        return Said(vectors, present, self.pooled(pooled.to(self.pooled.weight.dtype)))

    def read(
        self,
        condition: Condition | None,
        scores: Float[Tensor, " b"],
        hidden: Bool[Tensor, " b"] | None = None,
        free: bool = False,
    ) -> Said:
        """Read a condition, of which some rows are hidden.

        Args:
            free: with the rows without a condition beside it.
        """
        every = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        given = Condition(every) if condition is None else condition
        said: Said = self(given if hidden is None else given.hidden(hidden), scores)
        if not free:
            return said
        return Said(said.vectors, said.present, said.pooled, self(given.hidden(every), scores))


class Modulated(nn.Module):
    """A norm with a scale and a shift of the pooled text."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Float[Tensor, "b n w"], by: Float[Tensor, "b w"]) -> Float[Tensor, "b n w"]:
        scale, shift = self.linear(by)[:, None].chunk(2, -1)
        return norm(x) * (1 + scale) + shift


def norm(x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n w"]:
    """A norm without parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Stream(nn.Module):
    """One side of a block, of tokens or of a text: its modulation, projections and feed-forward layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def after(
        self, x: Float[Tensor, "b n w"], mixed: Float[Tensor, "b n w"], how: tuple[Tensor, ...]
    ) -> Float[Tensor, "b n w"]:
        """The stream behind attention, by the modulation's last four parts."""
        gate, shift, scale, last = how
        x = x + gate * self.proj(mixed)
        inner = self.fc1(norm(x) * (1 + scale) + shift)
        out: Tensor = x + last * self.fc2(F.gelu(inner, approximate="tanh"))
        return out


class JointBlock(nn.Module):
    """Joint attention of tokens and text, and a feed-forward layer of each; the last one gives tokens alone."""

    def __init__(self, width: int, heads: int, hidden: int, last: bool) -> None:
        super().__init__()
        self.heads, self.last = heads, last
        self.image = Stream(width, hidden)
        self.text = None if last else Stream(width, hidden)
        self.text_norm = Modulated(width) if last else None
        self.text_kv = nn.Linear(width, 2 * width) if last else None

    def forward(
        self,
        x: Float[Tensor, "b k w"],
        text: Float[Tensor, "b n w"],
        by: Float[Tensor, "b w"],
        seen: Bool[Tensor, "b 1 1 m"],
    ) -> tuple[Float[Tensor, "b k w"], Float[Tensor, "b n w"]]:
        shift, scale, *rest = self.image.modulation(by)[:, None].chunk(6, -1)
        query, key, value = self._heads(self.image.qkv(norm(x) * (1 + scale) + shift), 3)
        others: list[Tensor] = []
        if self.text is None:
            assert self.text_norm is not None
            assert self.text_kv is not None
            text_query, (text_key, text_value) = None, self._heads(self.text_kv(self.text_norm(text, by)), 2)
        else:
            shift, scale, *others = self.text.modulation(by)[:, None].chunk(6, -1)
            text_query, text_key, text_value = self._heads(self.text.qkv(norm(text) * (1 + scale) + shift), 3)
        queries = query if text_query is None else torch.cat([query, text_query], 2)
        mixed = attend(queries, torch.cat([key, text_key], 2), torch.cat([value, text_value], 2), seen)
        mixed = mixed.transpose(1, 2).flatten(2)
        count = x.shape[1]
        x = self.image.after(x, mixed[:, :count], tuple(rest))
        if self.text is not None:
            text = self.text.after(text, mixed[:, count:], tuple(others))
        return x, text

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return tuple(x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4))


class Body(nn.Module):
    """Blocks, then a modulated norm."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(JointBlock(width, heads, hidden, i == depth - 1) for i in range(depth))
        self.norm = Modulated(width)

    def forward(self, x: Float[Tensor, "b k w"], keep: Bool[Tensor, "b k"], said: Said) -> Float[Tensor, "b k w"]:
        by, text = F.silu(said.pooled), said.vectors
        seen = torch.cat([keep, said.present], 1)[:, None, None]
        for block in self.blocks:
            x, text = block(x, text, by, seen)
        out: Tensor = self.norm(x, by)
        return out
