"""Configs of the quantizers that weigh all entries of a codebook for each token."""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log
from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import QuantizerConfig, Spec, TokenSpec

ENTROPY = ("diversity", "entropy_temperature", "entropy_floor")
"""Fields of entropies beside their weight."""


class EntropyFields(QuantizerConfig):
    """Settings of the entropies of a distribution over entries, which softmax(logits / `entropy_temperature`) is."""

    entropy: float = Field(0.05, ge=0)
    """Weight of the entropy terms: sure of each token, undecided over the batch."""
    diversity: float = Field(1.0, ge=0)
    """Weight of the batch's entropy against the tokens'."""
    entropy_temperature: float = Field(0.01, gt=0)
    """What the logits are divided by for the entropies alone."""
    entropy_floor: float = Field(0.0, ge=0)
    """Added to a probability under the logarithm of the batch's entropy; 1e-5 in GigaTok, as in LlamaGen."""

    def idle_entropies(self) -> Iterable[tuple[str, str]]:
        """Doubts about settings that do nothing without entropies."""
        for name, value in () if self.entropy else self.changed(*ENTROPY):
            yield name, f"{value:g} does nothing where entropy is 0; leave it out"


class IBQConfig(EntropyFields):
    """Index backpropagation quantization (arXiv 2412.02692): the entry of the largest product with the features.

    The gradient passes through the softmax over all entries, so that every entry learns from every token. A step holds
    a number for each entry of each token.
    """

    type: Literal["ibq"] = "ibq"
    codebook_size: int = Field(16384, ge=2)
    """Entries of the codebook."""
    dim: int = Field(256, ge=1)
    """Width of an entry, and so of a token."""
    double: float = Field(1.0, ge=0)
    """Weight of the squared distance between a token and its features whose gradient goes all ways: to the features,
    the entry, and through the softmax."""
    commitment: float = Field(1.0, ge=0)
    """Weight of the loss that draws features to their entries."""
    codebook: float = Field(0.25, ge=0)
    """Weight of the loss that draws entries to their features."""

    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, 1, self.codebook_size)

    def remedy(self) -> str:
        return f"{'a lower run.optimizer.lr' if self.entropy else 'quantizer.entropy=0.05'}, or quantizer=fsq"

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        return self.idle_entropies()


class SoftVQConfig(EntropyFields):
    """SoftVQ (arXiv 2412.10958): a token is the mean of all entries, weighted by softmax(<z, entry> / tau); continuous.

    The entries learn from the mean alone. A step holds a number for each entry of each token.
    """

    type: Literal["softvq"] = "softvq"
    codebook_size: int = Field(8192, ge=2)
    """Entries of the codebook."""
    dim: int = Field(32, ge=1)
    """Width of an entry, and so of a token."""
    tau: float = Field(0.07, gt=0)
    """Temperature of the weights: towards 0 a token is its nearest entry."""
    l2_norm: bool = True
    """Put features and entries on the unit sphere; tokens, being means, lie within."""
    entropy: float = Field(0.01, ge=0)
    """Weight of the entropy terms: sure of each token, undecided over the batch."""

    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}

    @model_validator(mode="after")
    def _sphere(self) -> SoftVQConfig:
        if self.l2_norm and self.dim < 2:
            raise ValueError("with l2_norm an entry of dim 1 can only be +1 or -1; take more dims, or l2_norm: false")
        return self

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim)

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        yield from self.idle_entropies()
        if self.l2_norm and self.codebook_size > exp(2 / self.tau) + 1:
            share, sharp = 1 / (1 + (self.codebook_size - 1) * exp(-2 / self.tau)), 2 / log(self.codebook_size)
            text = f"{self.tau:g} leaves no entry more than {share:.1%} of a token, whatever the features, and so all "
            yield "tau", f"{text}tokens near the codebook's mean; take at most {sharp:.2g}"


class GumbelConfig(QuantizerConfig):
    """Gumbel-softmax quantization (arXiv 1611.01144), as in DALL-E's dVAE and VQGAN: features are logits over entries.

    Training draws the entry by Gumbel noise, and the gradient passes through the softmax of the noisy logits; use takes
    the likeliest. The projection has a row for each entry, and a step holds, and draws, a number for each entry of each
    token.
    """

    type: Literal["gumbel"] = "gumbel"
    codebook_size: int = Field(8192, ge=2)
    """Entries of the codebook."""
    dim: int = Field(256, ge=1)
    """Width of an entry, and so of a token."""
    temperature: float = Field(1.0, gt=0)
    """What noisy logits are divided by at the start."""
    final_temperature: float = Field(0.0625, gt=0)
    """What they are divided by from `anneal_steps` on; falls, or rises, by a cosine."""
    anneal_steps: int = Field(0, ge=0)
    """Training steps until the final temperature, which DALL-E reaches after 150,000; 0 keeps the first one."""
    hard: bool = True
    """Let the token be the entry drawn, the gradient straight through, as in VQGAN; else the mean of all entries under
    the softmax, in training alone, as in DALL-E's dVAE."""
    kl: float = Field(5e-4, ge=0)
    """Weight of the divergence of a token's distribution over entries from the even one, in nats."""

    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, 1, self.codebook_size)

    def remedy(self) -> str:
        return f"quantizer.kl={10 * self.kl or 5e-4:g}, or quantizer=fsq"

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if not self.anneal_steps:
            for name, value in self.changed("final_temperature"):
                yield name, f"{value:g} does nothing where anneal_steps is 0; set that too, or leave it out"
        elif self.anneal_steps > steps:
            text = f"{self.anneal_steps:,} are more than the run's {steps:,}, so the temperature ends on its way"
            yield "anneal_steps", f"{text}; lower it, or train for longer"
