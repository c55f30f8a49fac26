"""A plugin of toys, a part of each kind, tiny and fast, on which the core's tests stand. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from flexframe_registry import (
    AllocatorConfig,
    CodecConfig,
    Component,
    ComponentConfig,
    ConditionerConfig,
    DecoderConfig,
    EncoderConfig,
    ImporterConfig,
    LatentSpec,
    MaskerConfig,
    ObjectiveConfig,
    PriorConfig,
    QuantizerConfig,
    SamplingConfig,
    Spec,
    TextSpec,
    TokenSpec,
    hookimpl,
)
from flexframe_registry.cards import folders


class TrunkConfig(ComponentConfig):
    """What encoder and decoders share."""

    sizes = {"tiny": {"width": 16, "depth": 2}, "base": {"width": 64, "depth": 12}}
    width: int = Field(32, ge=1)
    """Width of the layers."""
    depth: int = Field(4, ge=1)
    """Layers."""
    patch: int = Field(4, ge=1)
    """Latents along each axis that one patch covers."""

    def check(self, spec: Spec) -> None:
        rows, columns = spec.latents.height, spec.latents.width
        if rows % self.patch or columns % self.patch:
            raise ValueError(
                f"latents of {rows} x {columns} do not divide into patches of {self.patch}; change `patch`"
            )


class ToyEncoderConfig(TrunkConfig, EncoderConfig):
    """A learned query for each slot looks at the patches."""

    type: Literal["toy"] = "toy"
    counting: bool = False
    """Whether each slot knows how many are kept."""

    def features(self) -> int:
        return self.width

    def prefixes(self) -> bool:
        return not self.counting


class ToyQuantizerConfig(QuantizerConfig):
    """Each dimension rounded to one of its levels; all of them one code, or a code each."""

    type: Literal["toy"] = "toy"
    sizes = {"tiny": {"levels": (8, 8, 8)}}
    levels: tuple[int, ...] = (16, 16, 16, 16)
    """Values of each dimension."""
    split: bool = False
    """Whether each dimension is a codebook of its own; they have equally many values then."""
    noise: float = Field(0.0, ge=0)
    """Spread of noise that training adds, drawn from the global state as libraries draw theirs."""
    average: bool = False
    """Whether training keeps a running mean of what is rounded."""

    def tokens(self, length: int, features: int) -> TokenSpec:
        books, size = (len(self.levels), self.levels[0]) if self.split else (1, math.prod(self.levels))
        return TokenSpec(length, len(self.levels), books, size)


class ToyValuesConfig(QuantizerConfig):
    """A projection, not rounded: continuous tokens."""

    type: Literal["toy-values"] = "toy-values"
    dim: int = Field(3, ge=1)
    """Width of a token."""

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim, 1, None)


class ToyMaskerConfig(MaskerConfig):
    """The first 1, 2, 4, ... tokens, evenly drawn."""

    type: Literal["toy"] = "toy"
    every: bool = False
    """Whether every length is drawn, rather than powers of two."""

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(range(1, length + 1)) if self.every else tuple(1 << i for i in range(length.bit_length()))

    def check(self, spec: Spec) -> None:
        if not self.every and (length := spec.tokens.length) & (length - 1):
            raise ValueError(f"masker 'toy' needs a length that is a power of two, not {length}")


class ToySampling(SamplingConfig):
    """Steps from noise to a picture."""

    steps: int = Field(4, ge=1)
    """Equal steps."""
    guidance: float = 1.0
    """Weight of the tokens against none."""


class ToyDecoderConfig(TrunkConfig, DecoderConfig):
    """A rectified flow: draws at use."""

    type: Literal["toy"] = "toy"
    sampling = ToySampling
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of samples whose tokens training hides, for guidance."""

    def provides(self) -> frozenset[str]:
        return frozenset(self.taps())

    def taps(self) -> Mapping[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def unused(self) -> tuple[str, ...]:
        return () if self.dropout else ("null",)


class ToyPlainConfig(TrunkConfig, DecoderConfig):
    """One pass to a reconstruction: draws nothing."""

    type: Literal["toy-plain"] = "toy-plain"

    def provides(self) -> frozenset[str]:
        return frozenset({"reconstruction", *self.taps()})

    def taps(self) -> Mapping[str, int]:
        return {f"block.{i}": self.width for i in range(self.depth)}

    def usual_objectives(self) -> tuple[str, ...]:
        return ("mse",)


class ToyCodecConfig(CodecConfig):
    """Two convolutions, frozen: latents of half the size, drawn around their mean where `spread` says so."""

    type: Literal["toy"] = "toy"
    channels: int = Field(4, ge=1)
    """Latent channels."""
    spread: float = Field(0.0, ge=0)
    """Standard deviation of what `encode` draws."""

    def latents(self, height: int, width: int) -> LatentSpec:
        return LatentSpec(self.channels, height // 2, width // 2, None)


class ToyObjectiveConfig(ObjectiveConfig):
    """Features of the decoder's first layer should tell the picture's colour, through a projection of its own."""

    type: Literal["toy"] = "toy"
    of: Literal["mean", "spread"] = "mean"
    """Which colour: the mean of each channel, or its standard deviation."""

    def needs(self) -> frozenset[str]:
        return frozenset({"block.0"})

    def precomputes(self) -> Mapping[str, Mapping[str, Any]]:
        return {"toy": {"of": self.of}}


class ToyAllocatorConfig(AllocatorConfig):
    """More tokens for brighter pictures."""

    type: Literal["toy"] = "toy"
    gain: float = Field(1.0, gt=0)
    """Tokens, as a share of all, by brightness from 0 to 1."""

    def check(self, spec: Spec) -> None:
        if self.gain > spec.tokens.length:
            raise ValueError(f"a gain of {self.gain} is more than the {spec.tokens.length} tokens of this model")


class ToyPriorSampling(SamplingConfig):
    """How codes are drawn."""

    temperature: float = Field(1.0, ge=0)
    """Below 1 takes likely codes more often; 0 always the likeliest."""
    guidance: float = 1.0
    """Weight of the class against none."""
    steady: bool = False
    """Whether a row's codes are all drawn by the noise of its first."""


class ToyPriorConfig(PriorConfig):
    """Each code's chances by class and slot."""

    type: Literal["toy"] = "toy"
    sampling = ToyPriorSampling
    texts = True
    class_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of samples whose class training hides."""


class ToyConditionerConfig(ConditionerConfig):
    """Each word's letters, counted by a learned table."""

    type: Literal["toy"] = "toy"
    width: int = Field(8, ge=1)
    """Width of a word."""
    length: int = Field(6, ge=1)
    """The most words."""

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width)


class ToyFrozenConfig(ToyConditionerConfig):
    """The same with a table that is nobody's to train."""

    frozen = True
    type: Literal["toy-frozen"] = "toy-frozen"  # type: ignore[assignment]
    weights: str | None = None
    """Hash of the table."""


class ToyMeansSampling(SamplingConfig):
    """How values are drawn."""

    temperature: float = Field(1.0, ge=0)
    """Factor of the noise."""


class ToyMeansConfig(PriorConfig):
    """Each value's mean by class and slot; continuous tokens."""

    type: Literal["toy-means"] = "toy-means"
    sampling = ToyMeansSampling
    continuous = True


class ToyImporterConfig(ImporterConfig):
    """Checkpoints of a tokenizer of toys, under other names of tensors and settings."""

    type: Literal["toy"] = "toy"


@hookimpl
def flexframe_components() -> Iterable[Component]:
    parts = f"{__name__}.parts"
    return [
        Component(ToyEncoderConfig, f"{parts}:ToyEncoder"),
        Component(ToyQuantizerConfig, f"{parts}:ToyQuantizer"),
        Component(ToyValuesConfig, f"{parts}:ToyValues"),
        Component(ToyMaskerConfig, f"{parts}:ToyMasker"),
        Component(ToyDecoderConfig, f"{parts}:ToyDecoder"),
        Component(ToyPlainConfig, f"{parts}:ToyPlain"),
        Component(ToyCodecConfig, f"{parts}:ToyCodec"),
        Component(ToyObjectiveConfig, f"{parts}:ToyObjective"),
        Component(ToyAllocatorConfig, f"{parts}:ToyAllocator"),
        Component(ToyPriorConfig, f"{parts}:ToyPrior"),
        Component(ToyConditionerConfig, f"{parts}:ToyConditioner"),
        Component(ToyFrozenConfig, f"{parts}:ToyFrozen"),
        Component(ToyMeansConfig, f"{parts}:ToyMeans"),
        Component(ToyImporterConfig, f"{parts}:ToyImporter"),
    ]


@hookimpl
def flexframe_cards() -> Iterable[Path]:
    return folders(__file__)
