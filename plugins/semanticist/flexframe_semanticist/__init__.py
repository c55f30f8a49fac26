"""Semanticist (Wen et al., arXiv 2503.08685): slots that read pixels in causal order, and a diffusion decoder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import Component, DecoderConfig, EncoderConfig, ImporterConfig, SamplingConfig, Spec, hookimpl
from flexframe_registry.cards import folders

TIMES = 1000
"""Steps of the diffusion that is trained."""


class SlotEncoderConfig(EncoderConfig):
    """ViT over patches of the image itself, a class token and learned slots, which are the features. Patches see no
    slot; slot i sees patches and slots up to i."""

    reads = "images"
    type: Literal["slots"] = "slots"
    width: int = Field(768, ge=1)
    """Width of the transformer."""
    depth: int = Field(12, ge=1)
    """Transformer blocks."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    patch: int = Field(16, ge=1)
    """Pixels along each axis that one patch covers."""
    causal: bool = True
    """Let slot i see slots 0..i only, and patches no slot. False lets all see all; all slots are then always computed,
    so that one is the same however many are kept."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Training: the share of samples that go without a branch of the last block; linear in depth, from none in the
    first (stochastic depth, arXiv 1603.09382)."""

    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, "patch": 4},
        "small": {"width": 384, "depth": 12, "heads": 6},
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    }

    def features(self) -> int:
        return self.width

    def check(self, spec: Spec) -> None:
        height, width = spec.images.height, spec.images.width
        if height % self.patch or width % self.patch:
            raise ValueError(f"images of {height} x {width} do not divide into patches of {self.patch}; change `patch`")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must divide by heads {self.heads}")


class DDPMSampling(SamplingConfig):
    """Ancestral sampling with the learned variance, over some of the diffusion's steps."""

    steps: int = Field(250, ge=1, le=TIMES)
    """Steps that are taken of the 1000."""
    spacing: Literal["even", "stride"] = "even"
    """Take them evenly from the first to the last, rounded; or every so many from the first, which `steps` must be a
    count of: the published code's "ddim" spacing."""
    guidance: float = 1.0
    """Scale of the conditional noise's difference from the null condition's; 1 is without, at half the cost."""

    @model_validator(mode="after")
    def _stride(self) -> DDPMSampling:
        if self.spacing == "stride" and self.steps not in {len(range(0, TIMES, n)) for n in range(1, TIMES)}:
            raise ValueError(f"no whole stride through {TIMES} makes {self.steps} steps; 25, 50, 100 and 250 are some")
        return self

    @classmethod
    def quick(cls) -> DDPMSampling:
        return cls(steps=2)

    def by_step(self) -> Sequence[tuple[DDPMSampling, int]]:
        return [(self.model_copy(update={"steps": 1, "spacing": "even"}), self.steps)]


class DDPMDecoderConfig(DecoderConfig):
    """Diffusion transformer on latents (DiT, arXiv 2212.09748), conditioned on tokens behind its patches; predicts the
    noise and the share of its variance (arXiv 2102.09672)."""

    type: Literal["ddpm"] = "ddpm"
    sampling = DDPMSampling
    width: int = Field(1024, ge=4)
    """Width of the transformer."""
    depth: int = Field(24, ge=1)
    """Transformer blocks."""
    heads: int = Field(16, ge=1)
    """Attention heads."""
    patch: int = Field(2, ge=1)
    """Latents along each axis that one patch covers."""
    null_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of training samples whose tokens are all replaced by the null condition, for guidance."""
    null_end: int | None = Field(None, ge=0)
    """The first step at which none are replaced; Semanticist's is the one at which the masker begins to drop tokens,
    each of which is the null condition of its place. None: they always are."""

    sizes = {
        "tiny": {"width": 64, "depth": 3, "heads": 2, "patch": 4},
        "small": {"width": 384, "depth": 12, "heads": 6},
        "base": {"width": 768, "depth": 12, "heads": 12},
        "large": {"width": 1024, "depth": 24, "heads": 16},
    }

    def provides(self) -> frozenset[str]:
        return frozenset(self.taps())

    def taps(self) -> dict[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def unused(self) -> tuple[str, ...]:
        return () if self.null_dropout and self.null_end is None else ("null",)

    def check(self, spec: Spec) -> None:
        height, width = spec.latents.height, spec.latents.width
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"latents of {height} x {width} do not divide into patches of {self.patch}; change `patch`"
            )
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must divide by heads {self.heads} and by 4 (sine-cosine positions)")

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if not spec.tokens.masked and (not self.null_dropout or self.null_end == 0):
            yield (
                "null_dropout",
                "is 0 and no token is ever dropped, so guidance has no null condition that learned",
            )


class SemanticistImporterConfig(ImporterConfig):
    """Checkpoints of Semanticist: state dicts with the project's config, and EMA pickles without one."""

    type: Literal["semanticist"] = "semanticist"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(SlotEncoderConfig, "flexframe_semanticist.encoder:SlotEncoder"),
        Component(DDPMDecoderConfig, "flexframe_semanticist.decoder:DDPMDecoder"),
        Component(SemanticistImporterConfig, "flexframe_semanticist.importer:SemanticistImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    """List the folders of the plugin's cards."""
    return folders(__file__)
