"""The draws. Each keeps a prefix of every sample's tokens; see the configs for the distributions."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.parts import LengthMasker
from flexframe.rng import Rng
from flexframe.tokens import Kept, prefix

from . import DoublingConfig, NestedConfig

PURPOSE = "masker/length"


def all_of(slots: int, batch: int, rng: Rng) -> Kept:
    """Sequences that are really that short, with every token present."""
    return Kept(slots, torch.ones(batch, slots, dtype=torch.bool, device=rng.index.device))


class Nested(LengthMasker):
    """Base of maskers that draw a length a sample, or one for the whole batch."""

    config: NestedConfig

    @abstractmethod
    def lengths(self, length: int, rng: Rng) -> Int[Tensor, ...]:
        """Lengths by the masker's distribution, one for each of the rng's rows."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        if rng.step < self.config.begin:
            return all_of(length, batch, rng)
        if self.config.whole_batch:
            return all_of(int(self.lengths(length, rng.shared())), batch, rng)
        return Kept(length, prefix(self.lengths(length, rng), length))


class Uniform(Nested):
    """The masker of `UniformConfig`."""

    def lengths(self, length: int, rng: Rng) -> Int[Tensor, ...]:
        return 1 + rng.integers(PURPOSE, length)


class Pow2(Nested):
    """The masker of `Pow2Config`."""

    def lengths(self, length: int, rng: Rng) -> Int[Tensor, ...]:
        return 1 << rng.integers(PURPOSE, length.bit_length())


class UniformPow2(Nested):
    """The masker of `UniformPow2Config`."""

    def lengths(self, length: int, rng: Rng) -> Int[Tensor, ...]:
        drawn = 1 + rng.integers(PURPOSE, length)
        powers = 1 << torch.arange(length.bit_length(), device=drawn.device)
        return powers[torch.searchsorted(powers, drawn)]


class Doubling(Nested):
    """The masker of `DoublingConfig`."""

    config: DoublingConfig

    def chances(self, length: int) -> Float[Tensor, " n"]:
        """Probability of each of the budgets."""
        shorter = torch.tensor(self.config.budgets(length)[:-1], dtype=torch.float64)
        dropped = self.config.drop if len(shorter) else 0.0
        return torch.cat([dropped * shorter / shorter.sum(), torch.tensor([1 - dropped], dtype=torch.float64)])

    def lengths(self, length: int, rng: Rng) -> Int[Tensor, ...]:
        drawn = rng.uniform(PURPOSE)
        below = self.chances(length).cumsum(0)[:-1].to(drawn)  # the last takes what is left
        return torch.tensor(self.config.budgets(length), device=drawn.device)[(drawn[:, None] >= below).sum(1)]


class TailDrop(LengthMasker):
    """One length a batch: every tensor downstream is really that short."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        return all_of(1 + int(rng.shared().integers(PURPOSE, length)), batch, rng)
