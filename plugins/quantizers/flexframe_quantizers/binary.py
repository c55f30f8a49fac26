"""Quantization by sign.

Ours rather than the library's. Its entropies are the same numbers, and a test holds them together; but it weighs all
codes for every token, gives one number for the batch, and under a mask (of version 1.32, even one that is True
everywhere) takes the batch's entropy for the mean of the tokens', so that the two terms cancel.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import BinaryConfig, BSQConfig, LFQConfig
from .common import evaluated, full_precision, normalize, present_mean, projection, straight_through


def token_entropy(logits: Float[Tensor, "b k d"]) -> Float[Tensor, "b k"]:
    """Entropy in nats of each token's code. Signs are independent given the features: it is the sum over bits."""
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)).sum(-1)


def codebook_entropy(logits: Float[Tensor, "b k d"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Entropy in nats of the mean distribution over codes of all present tokens of the batch.

    The mean of products over bits is one matrix product between the codes of the first and of the second half of the
    bits: exact, with sqrt(codebook_size) numbers a token.
    """
    chance = torch.where(keep[..., None], torch.sigmoid(logits), 0.5).flatten(0, 1)
    weight = keep.flatten() / keep.sum().clamp(min=1)
    half = chance.shape[1] // 2
    mean = (joint(chance[:, :half]) * weight[:, None]).mT @ joint(chance[:, half:])
    return -(mean * mean.clamp(min=1e-20).log()).sum()


def joint(chance: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
    """Probability of every combination of independent bits, the first bit the most significant."""
    out = chance.new_ones(len(chance), 1)
    for one in chance.unbind(1):
        out = torch.stack([out * (1 - one[:, None]), out * one[:, None]], -1).flatten(1)
    return out


class Signs(Quantizer):
    """Base of `lfq` and `bsq`. Losses: `token_entropy` (to be low), `codebook_entropy` (negative: to be
    high; of the batch, one number), `commitment`; the first bit is the most significant of the id."""

    config: BinaryConfig
    spherical: bool

    def __init__(self, config: BinaryConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.bits)
        self.scale = 1 / math.sqrt(config.bits) if self.spherical else 1.0
        self.register_buffer("shift", torch.arange(config.bits - 1, -1, -1), persistent=False)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            z = normalize(z) if self.spherical else z
            codes = ((z > 0).long() << self.shift).sum(-1, keepdim=True)
            quantized = self.lookup(codes)
            if not self.training:
                return Quantized(evaluated(z, quantized), codes)
            return Quantized(straight_through(z, quantized), codes, self._losses(z, quantized, keep))

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return ((codes >> self.shift) & 1).float() * (2 * self.scale) - self.scale

    def _losses(self, z: Tensor, quantized: Tensor, keep: Tensor) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.entropy:
            logits = 4 * config.inv_temperature * self.scale * z  # between the two codes that differ in one bit
            losses["token_entropy"] = config.entropy * present_mean(token_entropy(logits), keep)
            losses["codebook_entropy"] = -config.entropy * config.diversity * codebook_entropy(logits, keep)
        if config.commitment:
            losses["commitment"] = config.commitment * present_mean((z - quantized).square().mean(-1), keep)
        return losses


class LFQ(Signs):
    """See `LFQConfig`."""

    config: LFQConfig
    spherical = False


class BSQ(Signs):
    """See `BSQConfig`."""

    config: BSQConfig
    spherical = True
