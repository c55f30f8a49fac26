"""Configs of the quantizers without a table: grids and signs."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Literal

from pydantic import Field, field_validator, model_validator

from flexframe_registry import QuantizerConfig, Spec, TokenSpec

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
