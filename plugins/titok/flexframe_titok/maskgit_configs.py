"""TiTok's generators as data: MaskGIT (Chang et al., arXiv 2202.04200) over latent tokens. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from flexframe_registry import CodesSpec, ImporterConfig, PriorConfig, SamplingConfig

TINY = {"width": 64, "depth": 2, "heads": 2, "hidden": 128}
SMALL = {"width": 512, "depth": 8, "heads": 8, "hidden": 2048}
BASE = {"width": 768, "depth": 24, "heads": 16, "hidden": 3072}
LARGE = {"width": 1024, "depth": 20, "heads": 16, "hidden": 4096}


class MaskGITSampling(SamplingConfig):
    """Iterative parallel decoding: each step fills all masked tokens and masks the least certain ones again."""

    steps: int = Field(8, ge=1)
    """Steps, after each of which fewer tokens are masked, along an arc cosine."""
    temperature: float = Field(4.5, ge=0)
    """Scale of the Gumbel noise on logits and on confidence at the start; it falls linearly to 0 at the last step."""
    guidance: float = 3.0
    """Scale s of classifier-free guidance at its height. `linear` and `constant`: conditional + s (conditional -
    unconditional), so 0 is none. `power-cosine`: unconditional + s (conditional - unconditional), so 1 is none."""
    guidance_schedule: Literal["linear", "constant", "power-cosine"] = "constant"
    """The way there of guidance: in proportion to the steps done, at once, or along a cosine of the steps' `power`."""
    power: float = Field(3.0, ge=0)
    """Exponent of `power-cosine`; the higher, the later guidance sets in."""
    softmax_annealing: bool = False
    """Divide logits by 1.3 at the first step, down to 0.5 at the last, as the published numbers do."""
    confidence_noise: bool = True
    """Mask again by confidence with noise; false for confidence itself."""

    later = frozenset({"confidence_noise"})

    @classmethod
    def quick(cls) -> MaskGITSampling:
        return cls(steps=2)

    def excess(self, done: float) -> float:
        """The weight of conditional - unconditional, on top of the conditional logits, at a share of the steps
        done."""
        if self.guidance_schedule == "linear":
            return self.guidance * done
        if self.guidance_schedule == "constant":
            return self.guidance
        return (self.guidance - 1) * self.risen(done)

    def risen(self, done: float) -> float:
        """The height of the cosine at a share of the steps done."""
        return (1 - math.cos(math.pi * done**self.power)) / 2

    def by_step(self) -> Sequence[tuple[MaskGITSampling, int]]:
        guided = sum(self.excess(i / self.steps) != 0 for i in range(self.steps))
        kinds = [(1.0, guided), (0.0, self.steps - guided)]
        fixed: dict[str, Any] = {"steps": 1, "guidance_schedule": "constant"}
        return [(self.model_copy(update={**fixed, "guidance": s}), count) for s, count in kinds if count]


class MaskGITConfig(PriorConfig):
    """Base of both forms: a bidirectional transformer that fills in masked codes."""

    sampling = MaskGITSampling
    texts = True

    width: int = Field(768, ge=1)
    """Transformer width."""
    depth: int = Field(24, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    hidden: int = Field(3072, ge=1)
    """Width inside the feed-forward layers."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Training: share of the target's probability that is spread over all codes."""
    unmasked_weight: float = Field(0.1, ge=0, le=1)
    """Training: weight of the loss of a token that was not masked."""
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Training: probability that a row's class, or its text, is hidden, for guidance."""

    @model_validator(mode="after")
    def _heads(self) -> MaskGITConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self

    def check_codes(self, spec: CodesSpec) -> None:
        if spec.codebooks != 1:
            raise ValueError(
                f"models one code a token, and these tokens have {spec.codebooks}; prior 'gpt' models them"
            )


class BERTMaskGITConfig(MaskGITConfig):
    """MaskGIT on a BERT: the norm behind each sum (the generators of TiTok-L-32 and TiTok-B-64)."""

    type: Literal["maskgit-bert"] = "maskgit-bert"
    sizes = {"tiny": TINY, "small": SMALL, "base": BASE, "large": {**LARGE, "depth": 24}}

    dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of embeddings and of what each layer adds."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of attention weights."""
    head: Literal["codes", "vocabulary"] = "codes"
    """Logits of the codes alone; or of mask, classes and null too, as recent versions of the reference's libraries make
    it. Sampling draws from the codes alone either way."""


class UViTMaskGITConfig(MaskGITConfig):
    """MaskGIT on a U-ViT: blocks of the second half also read what the first half gave (the generator of
    TiTok-S-128)."""

    type: Literal["maskgit-uvit"] = "maskgit-uvit"
    sizes = {"tiny": TINY, "small": SMALL, "base": {**BASE, "depth": 12}, "large": LARGE}

    width: int = Field(1024, ge=1)
    """Transformer width."""
    depth: int = Field(20, ge=0, multiple_of=2)
    """Blocks before and after the one in the middle, together."""
    hidden: int = Field(4096, ge=1)
    """Width inside the feed-forward layers."""


class MaskGITImporterConfig(ImporterConfig):
    """Generators of bytedance/1d-tokenizer, in the BERT and the U-ViT form (`yucornetto/generator_titok_*`)."""

    type: Literal["maskgit"] = "maskgit"
