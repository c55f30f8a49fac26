"""The draws. Each keeps a prefix of every sample's tokens; see the configs for the distributions."""

from __future__ import annotations

import torch

from flexframe.parts import LengthMasker
from flexframe.rng import Rng
from flexframe.tokens import Kept, prefix

PURPOSE = "masker/length"


class Uniform(LengthMasker):
    """The masker of `UniformConfig`."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        return Kept(length, prefix(1 + rng.integers(PURPOSE, length), length))


class Pow2(LengthMasker):
    """The masker of `Pow2Config`."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        return Kept(length, prefix(1 << rng.integers(PURPOSE, length.bit_length()), length))


class UniformPow2(LengthMasker):
    """The masker of `UniformPow2Config`."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        drawn = 1 + rng.integers(PURPOSE, length)
        powers = 1 << torch.arange(length.bit_length(), device=drawn.device)
        return Kept(length, prefix(powers[torch.searchsorted(powers, drawn)], length))


class TailDrop(LengthMasker):
    """One length a batch: every tensor downstream is really that short."""

    def draw(self, batch: int, length: int, *, rng: Rng) -> Kept:
        slots = 1 + int(rng.shared().integers(PURPOSE, length))
        return Kept(slots, torch.ones(batch, slots, dtype=torch.bool, device=rng.index.device))
