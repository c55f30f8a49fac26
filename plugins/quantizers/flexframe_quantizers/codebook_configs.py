"""Configs of the quantizers with a table of vectors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import QuantizerConfig, Spec, TokenSpec
from flexframe_registry.doubts import SMOKE

from .soft_configs import ENTROPY, EntropyFields


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


EARLY = 0.97
"""The slowest decay at which dead entries are replaced soon enough to be a remedy."""


class EmaFields(QuantizerConfig):
    """Settings of a codebook that follows its features without a gradient."""

    decay: float = Field(0.99, gt=0, lt=1)
    """Decay of what follows the features step by step: the running means of `ema`, the running use of `clustering`."""
    dead_code_threshold: float = Field(0.0, ge=0)
    """An entry whose running count a step is below this is replaced by a random present feature; with `ema` only.
    Above 0 this waits for the device once a step, and draws from the global random state."""

    def revival(self, ema: bool) -> str:
        """Settings that keep entries in use, as far as they are not set: from step 59 on, before the decoder has
        learned to do without tokens, which at the usual decay is over before the first entry is replaced."""
        settings = ["quantizer.ema=true"] * (not ema)
        early = self.dead_code_threshold and self.decay <= EARLY
        settings += ["quantizer.decay=0.95 quantizer.dead_code_threshold=0.05"] * (not early)
        return " ".join(settings) or "a lower run.optimizer.lr"

    def idle(self) -> Iterable[tuple[str, str]]:
        """Doubts about settings that do nothing without running means."""
        for name, value in self.changed("decay"):
            yield name, f"{value:g} does nothing without ema; set ema: true, or leave it out"

    def late(self, steps: int) -> Iterable[tuple[str, str]]:
        """Doubts about a revival that comes when half of a run is over: until then every token may be one entry."""
        threshold = self.dead_code_threshold
        first = math.ceil(math.log(threshold) / math.log(self.decay)) if 0 < threshold < 1 else 0
        if steps > SMOKE and first > steps / 2:
            text = f"{threshold:g} replaces no entry before step {first} of {steps}: counts begin at 1 and fall by"
            yield "dead_code_threshold", f"{text} decay {self.decay:g} a step; lower decay, to 0.95 say, or raise this"


class VQConfig(CodebookConfig, EmaFields, EntropyFields):
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
    clustering: bool = False
    """Move each entry towards the feature nearest to it, the further the less it is used, up to the whole way, beside
    what its gradient does (CVQ, arXiv 2307.15139; TiTok's `clustering_vq`)."""

    entropy: float = Field(0.0, ge=0)
    """Weight of the entropy terms, of softmax(-distance ** 2 / `entropy_temperature`): sure of each token, undecided
    over the batch. GigaTok's largest has 0.005, with an `entropy_floor` of 1e-5. Above 0 a step holds a number for each
    entry of each token."""

    later = frozenset({"by_level", "clustering", "entropy", *ENTROPY})
    sizes = {"tiny": {"codebook_size": 64, "dim": 8}}

    def remedy(self) -> str:
        settings = "a lower run.optimizer.lr" if self.clustering else self.revival(self.ema)
        return f"{settings}, or quantizer=fsq"

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        yield from () if self.ema or self.clustering else self.idle()
        yield from self.late(steps)
        yield from self.idle_entropies()

    @property
    def entry(self) -> int:
        """Width of an entry."""
        return self.dim

    @model_validator(mode="after")
    def _sensible(self) -> VQConfig:
        if self.l2_norm and self.entry < 2:
            raise ValueError("with l2_norm an entry of dim 1 can only be +1 or -1; take more dims, or l2_norm: false")
        if self.dead_code_threshold and not self.ema:
            raise ValueError("dead_code_threshold works on a codebook of running means; set ema: true")
        if self.clustering and self.ema:
            raise ValueError("clustering moves a codebook that is learned by gradient; leave out one of it and ema")
        return self


class ProductVQConfig(VQConfig):
    """Product vector quantization: a token in equal parts along its width, each the nearest entry of its own codebook.

    The multi-codebook quantization of VibeToken and UniTok (arXiv 2502.20321); with `shared`, grouped VQ.
    """

    type: Literal["product-vq"] = "product-vq"
    codebooks: int = Field(8, ge=1)
    """Parts, and so codes, a token; losses are means over them."""
    dim: int = Field(64, ge=1)
    """Width of a token: a multiple of `codebooks`, whose entries have as much less."""
    codebook_size: int = Field(4096, ge=2)
    """Entries of each codebook."""
    shared: bool = False
    """Let all parts be entries of one codebook."""

    later = frozenset()
    sizes = {"tiny": {"codebooks": 2, "codebook_size": 64, "dim": 8}}

    @property
    def entry(self) -> int:
        return self.dim // self.codebooks

    @model_validator(mode="after")
    def _whole_parts(self) -> ProductVQConfig:
        if self.dim % self.codebooks:
            raise ValueError(f"dim {self.dim} does not divide into {self.codebooks} equal parts; take a multiple")
        return self

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        yield from super().doubts(spec, steps)
        if self.codebooks == 1:
            yield "codebooks", "1 leaves nothing to divide: that is quantizer 'vq'"

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, self.codebooks, self.codebook_size)


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
        return self.late(steps) if self.ema else self.idle()

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, self.num_quantizers, self.codebook_size)
