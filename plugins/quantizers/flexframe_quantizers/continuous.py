"""Tokens that are not quantized: drawn from a Gaussian, or the features themselves. Codes are the values."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import KLConfig, UnquantizedConfig
from .common import full_precision, projection


class KL(Quantizer):
    """See `KLConfig`. Loss: `kl`, a sample's divergence in nats, weighted."""

    config: KLConfig

    def __init__(self, config: KLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim * (2 if config.fixed_logvar is None else 1))

    def posterior(self, h: Float[Tensor, "b k h"]) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k d"]]:
        """Mean and log variance from the head's output."""
        if self.config.fixed_logvar is not None:
            return h, torch.full_like(h, self.config.fixed_logvar)
        mean, logvar = h.chunk(2, -1)
        return mean, logvar.clamp(-30, 20)

    def draw(self, mean: Tensor, logvar: Tensor, rng: Rng) -> Tensor:
        """Draw from the Gaussians of this mean and log variance, `b k d` each."""
        noise = rng.normal("quantizer/kl", mean.shape[1:])
        return mean + (0.5 * logvar).exp() * noise

    def divergence(self, mean: Tensor, logvar: Tensor, keep: Bool[Tensor, "b k"]) -> Float[Tensor, " b"]:
        """KL from the standard normal, summed over present tokens and dimensions."""
        token = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)
        return torch.where(keep, token, 0).sum(1)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        h = self.project(values).float()
        with full_precision(h):
            mean, logvar = self.posterior(h)
            drawn = self.draw(mean, logvar, rng) if self.training or self.config.sample else mean
            loss = self.config.weight * self.divergence(mean, logvar, keep)
        return Quantized(drawn, drawn.detach(), {"kl": loss})

    def lookup(self, codes: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        return codes


class Unquantized(Quantizer):
    """See `UnquantizedConfig`."""

    config: UnquantizedConfig

    def __init__(self, config: UnquantizedConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = nn.Identity() if config.dim is None else projection(spec.features, config.dim)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        projected = self.project(values).float()
        if self.config.standardize:
            projected = (projected - projected.mean(-1, keepdim=True)) / projected.std(-1, keepdim=True)
        return Quantized(projected, projected.detach())

    def lookup(self, codes: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        return codes
