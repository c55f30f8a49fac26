"""Dropout whose draws come from the rng handed in: those of a sample by its own index, equal when computed again."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.rng import Rng

LOW = 0xFFFFFFFF
MULTIPLIERS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)
"""Of positions, and of MurmurHash3's last steps (A. Appleby, public domain)."""


def drops(rng: Rng, purpose: str, sites: int) -> Int[Tensor, "b s 2"]:
    """Two numbers of 31 bits a sample and place of dropout, from which `dropped` makes its mask: a small draw for a
    whole network, where one of every entry's own would take longer than the network."""
    return rng.integers(purpose, 2**31, (sites, 2))


def dropped(x: Float[Tensor, "b ..."], rate: float, numbers: Int[Tensor, "b 2"] | None) -> Float[Tensor, "b ..."]:
    """`x` with a share of its entries zero and the others as much larger; `x` itself without numbers, as in use."""
    if numbers is None or not rate:
        return x
    position = torch.arange(math.prod(x.shape[1:]), device=x.device) * MULTIPLIERS[0]
    mixed = (position & LOW) ^ numbers[:, :1]
    mixed = (((mixed ^ (mixed >> 16)) * MULTIPLIERS[1]) & LOW) ^ numbers[:, 1:]
    mixed = ((mixed ^ (mixed >> 16)) * MULTIPLIERS[2]) & LOW
    keep = (mixed ^ (mixed >> 16)) >= rate * 2.0**32
    kept: Tensor = x * (keep.reshape(x.shape) / (1 - rate)).to(x.dtype)
    return kept
