"""Quantizers: what turns an encoder's features into tokens, discrete or continuous."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Literal

from pydantic import Field, field_validator, model_validator

from flexframe_registry import Component, QuantizerConfig, Spec, TokenSpec, hookimpl

EXACT = 2**24
"""The largest codebook whose ids float32 arithmetic tells apart."""


def check_levels(levels: tuple[int, ...], least: int, instead: str) -> tuple[int, ...]:
    """Check level counts of a scalar quantizer; returns them.

    Raises:
        ValueError: there are none, one is below `least`, or their product is above 2**24.
    """
    if not levels or min(levels) < least:
        raise ValueError(f"needs at least one level count, each {least} or more, not {levels}{instead}")
    if prod(levels) > EXACT:
        raise ValueError(f"the product of the levels is the codebook size, at most 2**24, not {prod(levels)}")
    return levels


class FSQConfig(QuantizerConfig):
    """Finite scalar quantization (arXiv 2309.15505) as FlexTok has it (arXiv 2502.13967); no loss.

    The head is zero at the start, so every token starts as the middle code.
    """

    type: Literal["fsq"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    """Values a dimension can take; as many dimensions as entries. The ids' first dimension varies fastest."""
    drop_quant_p: float = Field(0.0, ge=0, le=1)
    """Training: probability, a sample, that its values stay bounded but unrounded; its codes are the rounded ones."""
    corrupt_tokens_p: float = Field(0.0, ge=0, le=1)
    """Training: the most that a corrupted sample's tokens are replaced by random codes; 0 is never. FlexTok publishes
    the names of the three settings only. Our reading: a sample is corrupted with `apply_corrupt_tokens_p`; it then
    draws one rate uniformly from `min_corrupt_tokens_p` to this, and each of its tokens is replaced independently at
    that rate by a uniformly random code. A replaced token's code and values agree, and it passes no gradient on."""
    min_corrupt_tokens_p: float = Field(0.0, ge=0, le=1)
    """The lower end of the replacement rate."""
    apply_corrupt_tokens_p: float = Field(0.2, ge=0, le=1)
    """Probability that a sample is corrupted at all."""

    sizes = {"tiny": {}}

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        return check_levels(levels, 3, "; two levels are what 'lfq' and 'bsq' are for")

    @model_validator(mode="after")
    def _rates(self) -> FSQConfig:
        if self.min_corrupt_tokens_p > self.corrupt_tokens_p:
            raise ValueError(
                f"min_corrupt_tokens_p, {self.min_corrupt_tokens_p}, is above corrupt_tokens_p, {self.corrupt_tokens_p}"
            )
        return self

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, len(self.levels), 1, prod(self.levels))

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if not self.corrupt_tokens_p:
            for name, value in self.changed("apply_corrupt_tokens_p"):
                yield name, f"{value:g} does nothing where corrupt_tokens_p is 0; set that too, or leave it out"
        elif not self.apply_corrupt_tokens_p:
            text = f"{self.corrupt_tokens_p:g} does nothing where apply_corrupt_tokens_p is 0; set that too"
            yield "corrupt_tokens_p", f"{text}, or leave it out"


class CodebookConfig(QuantizerConfig):
    """Base of the quantizers with a table of vectors."""

    codebook_size: int = Field(4096, ge=2)
    """Entries of the codebook."""
    dim: int = Field(12, ge=1)
    """Width of an entry, and so of a token."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the loss that draws features to their entries; the one that draws entries to features weighs 1."""

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, 1, self.codebook_size)

    def remedy(self) -> str:
        return "a lower run.optimizer.lr, or quantizer=fsq"


class EmaFields(QuantizerConfig):
    """Settings of a codebook that follows its features without a gradient."""

    decay: float = Field(0.99, gt=0, lt=1)
    """Decay of the codebook's running means; with `ema` only."""
    dead_code_threshold: float = Field(0.0, ge=0)
    """An entry whose running count a step is below this is replaced by a random present feature; with `ema` only.
    Above 0 this waits for the device once a step, and draws from the global random state."""

    def revival(self, ema: bool) -> str:
        """Settings that keep entries in use, as far as they are not set."""
        settings = ["quantizer.ema=true"] * (not ema)
        settings += ["quantizer.dead_code_threshold=0.02"] * (not self.dead_code_threshold)
        return " ".join(settings) or "a lower run.optimizer.lr"

    def idle(self) -> Iterable[tuple[str, str]]:
        """Doubts about settings that do nothing without running means."""
        for name, value in self.changed("decay"):
            yield name, f"{value:g} does nothing without ema; set ema: true, or leave it out"


class VQConfig(CodebookConfig, EmaFields):
    """Vector quantization as TiTok has it (arXiv 2406.07550): a small, l2-normalised codebook learned by gradient."""

    type: Literal["vq"] = "vq"
    l2_norm: bool = True
    """Put features and entries on the unit sphere, for the search and for what travels on."""
    ema: bool = False
    """Let the codebook be a running mean of its features (arXiv 1711.00937, appendix A) rather than learned."""
    rotation_trick: bool = False
    """Pass gradients by rotation and scaling (arXiv 2410.06424) rather than straight through."""
    by_level: bool = False
    """Give each level of slots (0, 1, 2 to 3, 4 to 7, and so on) a projection of its own, as ResTok has it (arXiv
    2601.03955); one codebook is shared by all."""

    later = frozenset({"by_level"})
    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}

    def remedy(self) -> str:
        return f"{self.revival(self.ema)}, or quantizer=fsq"

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        return () if self.ema else self.idle()

    @model_validator(mode="after")
    def _sensible(self) -> VQConfig:
        if self.l2_norm and self.dim < 2:
            raise ValueError("with l2_norm a token of dim 1 can only be +1 or -1; take more dims, or l2_norm: false")
        if self.dead_code_threshold and not self.ema:
            raise ValueError("dead_code_threshold works on a codebook of running means; set ema: true")
        return self


class SimVQConfig(CodebookConfig):
    """SimVQ (arXiv 2411.02038): the codebook is a learned linear map of a frozen random table, so no entry dies."""

    type: Literal["simvq"] = "simvq"
    rotation_trick: bool = True
    """Pass gradients by rotation and scaling (arXiv 2410.06424) rather than straight through."""

    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}


class ResidualVQConfig(CodebookConfig, EmaFields):
    """Residual vector quantization (arXiv 2107.03312): each codebook quantizes what those before it left over."""

    type: Literal["residual-vq"] = "residual-vq"
    num_quantizers: int = Field(4, ge=1)
    """Codebooks, and so codes, a token."""
    codebook_size: int = Field(1024, ge=2)
    """Entries of each codebook."""
    ema: bool = True
    """Let the codebooks be running means of their residuals rather than learned by gradient."""

    sizes = {"tiny": {"num_quantizers": 2, "codebook_size": 64, "dim": 8}}

    def remedy(self) -> str:
        return f"{self.revival(self.ema)}, or quantizer=fsq"

    @model_validator(mode="after")
    def _sensible(self) -> ResidualVQConfig:
        if self.dead_code_threshold and not self.ema:
            raise ValueError("dead_code_threshold works on codebooks of running means; set ema: true")
        return self

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        return () if self.ema else self.idle()

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, self.num_quantizers, self.codebook_size)


class ResidualFSQConfig(QuantizerConfig):
    """Residual finite scalar quantization: each step quantizes what is left on a grid finer by its level counts."""

    type: Literal["residual-fsq"] = "residual-fsq"
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Values a dimension can take, in each step."""
    num_quantizers: int = Field(4, ge=1)
    """Steps, and so codes, a token."""

    sizes = {"tiny": {"num_quantizers": 2, "levels": (4, 4, 4)}}

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        return check_levels(levels, 2, "")

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, len(self.levels), self.num_quantizers, prod(self.levels))


class BinaryConfig(QuantizerConfig):
    """Base of the quantizers by sign: each code is log2(codebook_size) bits."""

    codebook_size: int = 4096
    """Values of a code: a power of two, at most 2**20, which is what the exact entropy of a batch can bear."""
    codebooks: int = Field(1, ge=1)
    """Codes a token: its dimensions, in order, are the bits of the first code, then those of the second. Entropies are
    each code's."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the squared distance between values and features."""
    entropy: float = Field(0.1, ge=0)
    """Weight of the entropy terms: sure of each token, undecided over the batch."""
    diversity: float = Field(1.0, ge=0)
    """Weight of the batch's entropy against the tokens'."""
    inv_temperature: float = Field(100.0, gt=0)
    """Sharpness of the distribution over codes whose entropies these are: softmax(2 inv_temperature <z, code>)."""

    later = frozenset({"codebooks"})
    sizes = {"tiny": {"codebook_size": 256}}

    @field_validator("codebook_size")
    @classmethod
    def _power_of_two(cls, size: int) -> int:
        if not 2 <= size <= 2**20 or size & (size - 1):
            raise ValueError(
                f"codebook_size is a power of two from 2 to 2**20, since a code is bits, not {size}; more bits a token "
                "are more codebooks"
            )
        return size

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        for name, value in () if self.entropy else self.changed("diversity", "inv_temperature"):
            yield name, f"{value:g} does nothing where entropy is 0; leave it out"

    @property
    def bits(self) -> int:
        """Bits of a code. A token has a dimension for each bit of each of its codes."""
        return self.codebook_size.bit_length() - 1

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.bits * self.codebooks, self.codebooks, self.codebook_size)


class LFQConfig(BinaryConfig):
    """Lookup-free quantization (arXiv 2310.05737): each dimension becomes its sign, -1 or 1.

    Of several codes a token, the entropies are means.
    """

    type: Literal["lfq"] = "lfq"
    pooled: bool = False
    """Take the batch's entropy of all codebooks' codes together, as FlowMo does (arXiv 2503.11056), rather than of each
    codebook's by themselves."""
    entropy_floor: float = Field(0.0, ge=0)
    """Added to a probability under the logarithm of the batch's entropy; 1e-5 in FlowMo."""

    later = frozenset({"codebooks", "pooled", "entropy_floor"})

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        yield from super().doubts(spec, steps)
        for name, value in () if self.entropy else self.changed("entropy_floor", "pooled"):
            yield name, f"{value} does nothing where entropy is 0; leave it out"
        if self.entropy and self.pooled and self.codebooks == 1:
            yield "pooled", "true does nothing with one codebook; set codebooks too, or leave it out"


class BSQConfig(BinaryConfig):
    """Binary spherical quantization (arXiv 2406.07548): features on the unit sphere, then signs over sqrt(bits).

    Several codes of a token share its one sphere, and their entropies are sums, as of the paper's groups of bits.
    """

    type: Literal["bsq"] = "bsq"
    codebook_size: int = 4096
    """Values of a code: a power of two from 4 to 2**20."""
    commitment: float = Field(0.0, ge=0)
    """Weight of the squared distance between values and features; the sphere bounds it already."""

    @model_validator(mode="after")
    def _sphere(self) -> BSQConfig:
        if self.codebook_size * self.codebooks < 4:
            raise ValueError("one bit alone has no sphere but its two codes; take a codebook_size of 4 or more")
        return self


class KLConfig(QuantizerConfig):
    """A diagonal Gaussian for each token, drawn to the standard normal (a VAE); continuous. TiTok's VAE mode."""

    type: Literal["kl"] = "kl"
    dim: int = Field(16, ge=1)
    """Width of a token."""
    weight: float = Field(1e-6, ge=0)
    """Weight of the divergence, which is summed over a sample's tokens and dimensions."""
    fixed_logvar: float | None = None
    """A log variance for all tokens in place of a predicted one (0 in TA-TiTok); the head then has the mean alone."""
    sample: bool = False
    """Draw from the Gaussian at use, as training does, rather than take its mean."""

    sizes = {"tiny": {"dim": 8}}

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim)


class UnquantizedConfig(QuantizerConfig):
    """No quantization: tokens are the features, or a linear map of them; continuous, no loss."""

    type: Literal["none"] = "none"
    dim: int | None = Field(None, ge=1)
    """Width of a token; None leaves the features as they are."""
    standardize: bool = False
    """Bring each token to mean 0 and deviation 1 (unbiased) over its own dims, so that none can grow and a prior knows
    the scale of what it models (Semanticist, arXiv 2503.08685)."""

    later = frozenset({"standardize"})
    sizes = {"tiny": {}}

    def check(self, spec: Spec) -> None:
        if self.standardize and spec.tokens.dim < 3:
            raise ValueError(
                f"standardize leaves a token of dim {spec.tokens.dim} nothing but signs; take 3 dims or more"
            )

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, features if self.dim is None else self.dim)


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(FSQConfig, "flexframe_quantizers.fsq:FSQ"),
        Component(VQConfig, "flexframe_quantizers.vq:VQ"),
        Component(SimVQConfig, "flexframe_quantizers.vq:SimVQ"),
        Component(LFQConfig, "flexframe_quantizers.binary:LFQ"),
        Component(BSQConfig, "flexframe_quantizers.binary:BSQ"),
        Component(ResidualVQConfig, "flexframe_quantizers.vq:ResidualVQ"),
        Component(ResidualFSQConfig, "flexframe_quantizers.fsq:ResidualFSQ"),
        Component(KLConfig, "flexframe_quantizers.continuous:KL"),
        Component(UnquantizedConfig, "flexframe_quantizers.continuous:Unquantized"),
    ]
