"""Quantizers that weigh all entries of a codebook for each token. All arithmetic is in float32."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import GumbelConfig, IBQConfig, SoftVQConfig
from .common import entropy_losses, evaluated, full_precision, normalize, present_mean, projection


def passed(
    chance: Float[Tensor, "b k v"], ids: Int[Tensor, "b k"], table: Float[Tensor, "v d"]
) -> Float[Tensor, "b k d"]:
    """Entries of these ids, as of a choice that is one-hot forward and `chance` backward: an entry has the gradient of
    its tokens, and what gave the chances that of a mean of all entries."""
    mean = chance @ table.detach()
    return F.embedding(ids, table) + (mean - mean.detach())


def use(logits: Float[Tensor, "b k v"], ids: Int[Tensor, "b k"], table: Float[Tensor, "v d"]) -> Quantized:
    """Tokens as evaluation gives them: the entries of these ids; with the gradient of the mean of all entries where the
    logits have one."""
    entry = F.embedding(ids, table)
    values = evaluated(logits.softmax(-1) @ table, entry) if logits.requires_grad else entry
    return Quantized(values, ids[..., None])


class IBQ(Quantizer):
    """See `IBQConfig`. Losses: `double`, `commitment`, `codebook`, `token_entropy`, `codebook_entropy`."""

    config: IBQConfig

    def __init__(self, config: IBQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim)
        self.embedding = nn.Embedding(config.codebook_size, config.dim)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            table = self.embedding.weight.float()
            logits = z @ table.mT
            ids = logits.argmax(-1)
            if not self.training:
                return use(logits, ids, table)
            entry, token = F.embedding(ids, table), passed(logits.softmax(-1), ids, table)
            losses = self._losses(z, token, entry, keep) | entropy_losses(self.config, logits, keep)
        return Quantized(token, ids[..., None], losses)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return F.embedding(codes[..., 0], self.embedding.weight.float())

    def _losses(self, z: Tensor, token: Tensor, entry: Tensor, keep: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms = {
            "double": (config.double, token - z),
            "commitment": (config.commitment, entry.detach() - z),
            "codebook": (config.codebook, entry - z.detach()),
        }
        return {
            name: weight * present_mean(difference.square().mean(-1), keep)
            for name, (weight, difference) in terms.items()
            if weight
        }


class SoftVQ(Quantizer):
    """See `SoftVQConfig`. Losses: `token_entropy`, `codebook_entropy`. Codes are the values."""

    config: SoftVQConfig

    def __init__(self, config: SoftVQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim)
        self.embedding = nn.Embedding(config.codebook_size, config.dim)
        nn.init.uniform_(self.embedding.weight, -1 / config.codebook_size, 1 / config.codebook_size)
        if config.l2_norm:
            with torch.no_grad():
                self.embedding.weight.copy_(normalize(self.embedding.weight))

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            table = self.embedding.weight.float()
            if self.config.l2_norm:
                z, table = normalize(z), normalize(table)
            logits = z @ table.detach().mT
            token = (logits / self.config.tau).softmax(-1) @ table
            losses = entropy_losses(self.config, logits, keep) if self.training else {}
        return Quantized(token, token.detach(), losses)

    def lookup(self, codes: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        return codes


class Gumbel(Quantizer):
    """See `GumbelConfig`. Loss: `kl`."""

    config: GumbelConfig

    def __init__(self, config: GumbelConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.codebook_size)
        self.embedding = nn.Embedding(config.codebook_size, config.dim)

    def temperature(self, step: int) -> float:
        """The temperature that noisy logits are divided by at a training step."""
        first, last, steps = self.config.temperature, self.config.final_temperature, self.config.anneal_steps
        if not steps:
            return first
        return last + (first - last) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        logits = self.project(values).float()
        with full_precision(logits):
            table = self.embedding.weight.float()
            if not self.training:
                return use(logits, logits.argmax(-1), table)
            drawn = rng.uniform("quantizer/gumbel", logits.shape[1:]).clamp(min=2.0**-25)
            noisy = logits - (-drawn.log()).log()
            ids = noisy.argmax(-1)
            soft = (noisy / self.temperature(rng.step)).softmax(-1)
            token = passed(soft, ids, table) if self.config.hard else soft @ table
            losses = {"kl": self.config.kl * present_mean(self.divergence(logits), keep)} if self.config.kl else {}
        return Quantized(token, ids[..., None], losses)

    def divergence(self, logits: Float[Tensor, "b k v"]) -> Float[Tensor, "b k"]:
        """KL in nats of each token's distribution over entries from the even one."""
        log_chance = logits.log_softmax(-1)
        return (log_chance.exp() * (log_chance + math.log(self.config.codebook_size))).sum(-1)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return F.embedding(codes[..., 0], self.embedding.weight.float())
