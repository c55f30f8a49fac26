"""MaskGen (Kim et al., arXiv 2501.07730): generators of TA-TiTok's tokens from texts, as data. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flexframe.nn.denoiser_config import DenoisingConfig, DenoisingSampling
from flexframe_registry import ImporterConfig

from .maskgit_configs import MaskGITConfig, MaskGITSampling

SCORE = 6.5
"""The aesthetic score that published samples ask for."""


class MaskGenVQSampling(MaskGITSampling):
    """Iterative parallel decoding, with an aesthetic score to ask for."""

    steps: int = Field(16, ge=1)
    """Steps, after each of which fewer tokens are masked, along an arc cosine."""
    temperature: float = Field(2.0, ge=0)
    """Scale of the Gumbel noise on logits and on confidence at the start; it falls linearly to 0 at the last step."""
    guidance: float = 12.0
    """Scale s of classifier-free guidance at its height, as `guidance_schedule` has it."""
    guidance_schedule: Literal["linear", "constant", "power-cosine", "cosine"] = "cosine"  # type: ignore[assignment]
    """In proportion to the steps, at once, or along a cosine of the steps' `power`: `cosine` weighs conditional -
    unconditional, on top of the conditional logits, by 1 at first and s at last."""
    power: float = Field(1.0, ge=0)
    """Exponent of the cosines; the higher, the later guidance sets in."""
    softmax_annealing: bool = True
    """Divide logits by 1.3 at the first step, down to 0.5 at the last."""
    score: float = SCORE
    """Aesthetic score, of a prior that is told one."""

    def excess(self, done: float) -> float:
        """As elsewhere, but guidance is that of the steps with the one that is taken."""
        after = done + 1 / self.steps
        if self.guidance_schedule == "cosine":
            return 1 + (self.guidance - 1) * self.risen(after)
        return super().excess(after)


class MaskGenKLSampling(DenoisingSampling):
    """Passes, each of which draws some more tokens anywhere, with classifier-free guidance within the head."""

    passes: int = Field(32, ge=1)
    """Passes of the transformer."""
    guidance: float = 3.0
    """Scale: unconditional + guidance (conditional - unconditional), so 1 is none."""
    score: float = SCORE
    """Aesthetic score, of a prior that is told one."""


class MaskGenVQConfig(MaskGITConfig):
    """MaskGen of integer codes: masked prediction by a transformer that attends to tokens and a text together."""

    type: Literal["maskgen-vq"] = "maskgen-vq"
    sampling = MaskGenVQSampling
    texts = True
    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, "hidden": 128},
        "small": {"width": 384, "depth": 8, "heads": 6, "hidden": 1536},
        "large": {"width": 1280, "depth": 20, "heads": 16, "hidden": 5120},
    }

    width: int = Field(1024, ge=1)
    """Transformer width."""
    depth: int = Field(16, ge=1)
    """Transformer blocks."""
    hidden: int = Field(4096, ge=1)
    """Width inside the feed-forward layers."""
    tied: bool = True
    """Read logits off the codes' own embeddings."""
    score_width: int = Field(0, ge=0, multiple_of=2)
    """Width of the sinusoid of an aesthetic score that is joined to the pooled text; 0 for none."""
    score: float = SCORE
    """Aesthetic score that training tells of each image, where the data say none."""


class MaskGenKLConfig(DenoisingConfig):
    """MaskGen of continuous tokens: the same transformer, whose head denoises masked tokens as MAR's does (arXiv
    2406.11838)."""

    type: Literal["maskgen-kl"] = "maskgen-kl"
    sampling = MaskGenKLSampling
    texts = True
    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, "head_width": 64, "head_depth": 2},
        "small": {"width": 384, "depth": 8, "heads": 6, "head_width": 512, "head_depth": 4},
        "large": {"width": 1280, "depth": 20, "heads": 16, "head_width": 1280},
    }

    width: int = Field(1024, ge=1)
    """Transformer width."""
    depth: int = Field(16, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    head_depth: int = Field(8, ge=1)
    """Residual layers of the head."""
    score_width: int = Field(0, ge=0, multiple_of=2)
    """Width of the sinusoid of an aesthetic score that is joined to the pooled text; 0 for none."""
    score: float = SCORE
    """Aesthetic score that training tells of each image, where the data say none."""

    @model_validator(mode="after")
    def _sizes(self) -> MaskGenKLConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self


class MaskGenImporterConfig(ImporterConfig):
    """MaskGen of bytedance/1d-tokenizer (`turkeyju/generator_maskgen_*`), of integer codes and of continuous tokens."""

    type: Literal["maskgen"] = "maskgen"
