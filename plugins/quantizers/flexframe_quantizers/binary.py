"""Quantization by sign.

Ours rather than the library's. Its entropies are the same numbers, and a test holds them together; but it weighs all
codes for every token, gives one number for the batch, and under a mask (of version 1.32, even one that is True
everywhere) takes the batch's entropy for the mean of the tokens', so that the two terms cancel.
"""

from __future__ import annotations

import math
from abc import abstractmethod

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


def token_entropy(logits: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
    """Entropy in nats of each code. Signs are independent given the features: it is the sum over bits."""
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)).sum(-1)


def codebook_entropy(
    logits: Float[Tensor, "b k q bits"], keep: Bool[Tensor, "b k"], floor: float = 0.0
) -> Float[Tensor, " q"]:
    """Entropy in nats of each codebook's mean distribution over codes, of all present tokens of the batch.

    The mean of products over bits is one matrix product between the codes of the first and of the second half of the
    bits: exact, with sqrt(codebook_size) numbers a code.

    Args:
        logits: of a bit being set.
        keep: the tokens that are present.
        floor: added to a probability under the logarithm.
    """
    chance = torch.where(keep[..., None, None], torch.sigmoid(logits), 0.5).flatten(0, 1)  # n q d
    weight = keep.flatten() / keep.sum().clamp(min=1)
    half = chance.shape[-1] // 2
    first, second = joint(chance[..., :half]), joint(chance[..., half:])
    mean = torch.einsum("nqv,nqw->qvw", first * weight[:, None, None], second)
    return -(mean * (mean + floor).clamp(min=1e-20).log()).sum((1, 2))


def joint(chance: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
    """Probability of every combination of independent bits, the first bit the most significant."""
    out = chance.new_ones(*chance.shape[:-1], 1)
    for one in chance.unbind(-1):
        out = torch.stack([out * (1 - one[..., None]), out * one[..., None]], -1).flatten(-2)
    return out


class Signs(Quantizer):
    """Base of `lfq` and `bsq`. Losses: `token_entropy` (to be low), `codebook_entropy` (negative: to be
    high; of the batch, one number), `commitment`; the first bit of a code is the most significant of its id."""

    config: BinaryConfig
    spherical: bool

    def __init__(self, config: BinaryConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        dim = spec.tokens.dim
        self.project = projection(spec.features, dim)
        self.scale = 1 / math.sqrt(dim) if self.spherical else 1.0
        self.register_buffer("shift", torch.arange(config.bits - 1, -1, -1), persistent=False)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            z = normalize(z) if self.spherical else z
            codes = ((self._by_code(z) > 0).long() << self.shift).sum(-1)
            quantized = self.lookup(codes)
            if not self.training:
                return Quantized(evaluated(z, quantized), codes)
            return Quantized(straight_through(z, quantized), codes, self._losses(z, quantized, keep))

    def lookup(self, codes: Int[Tensor, "b k q"]) -> Float[Tensor, "b k d"]:
        bits = (codes[..., None] >> self.shift) & 1
        return bits.flatten(-2).float() * (2 * self.scale) - self.scale

    @abstractmethod
    def entropies(
        self, logits: Float[Tensor, "b k q bits"], keep: Bool[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, ""]]:
        """Entropies in nats of each token and of the batch, over the codes of a token as the method has it.

        Args:
            logits: of each bit of each code.
            keep: the tokens that are present.
        """

    def _by_code(self, z: Float[Tensor, "b k d"]) -> Float[Tensor, "b k q bits"]:
        return z.unflatten(-1, (self.config.codebooks, self.config.bits))

    def _losses(self, z: Tensor, quantized: Tensor, keep: Tensor) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.entropy:
            logits = 4 * config.inv_temperature * self.scale * z  # between the two codes that differ in one bit
            of_token, of_batch = self.entropies(self._by_code(logits), keep)
            losses["token_entropy"] = config.entropy * present_mean(of_token, keep)
            losses["codebook_entropy"] = -config.entropy * config.diversity * of_batch
        if config.commitment:
            losses["commitment"] = config.commitment * present_mean((z - quantized).square().mean(-1), keep)
        return losses


class LFQ(Signs):
    """See `LFQConfig`."""

    config: LFQConfig
    spherical = False

    def entropies(
        self, logits: Float[Tensor, "b k q bits"], keep: Bool[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, ""]]:
        of_token, floor = token_entropy(logits).mean(-1), self.config.entropy_floor
        if self.config.pooled:
            every = keep.repeat_interleave(self.config.codebooks, 1)
            return of_token, codebook_entropy(logits.flatten(1, 2)[:, :, None], every, floor).sum()
        return of_token, codebook_entropy(logits, keep, floor).mean()


class BSQ(Signs):
    """See `BSQConfig`."""

    config: BSQConfig
    spherical = True

    def entropies(
        self, logits: Float[Tensor, "b k q bits"], keep: Bool[Tensor, "b k"]
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, ""]]:
        return token_entropy(logits).sum(-1), codebook_entropy(logits, keep).sum()
