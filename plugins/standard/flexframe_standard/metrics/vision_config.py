"""Settings of the distances in features of vision transformers: FD-DINOv2 and CMMD. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry import MetricConfig, SourceConfig
from flexframe_registry.config import PLACE
from flexframe_registry.kinds import Cause
from flexframe_registry.slots import Slot
from flexframe_standard.metrics.inception_config import OF_A_REFERENCE, UNITS


class VisionConfig(MetricConfig):
    """A distance in the features of a transformer, by transformers."""

    causes: ClassVar[Sequence[Cause]] = (
        Cause("the reference's setting", ("metric.reference*",), "told by what was measured of it", moves="nothing"),
        *OF_A_REFERENCE,
        Cause("versions", ("measured.transformers",)),
        Cause("device", ("measured.extracted_on*",)),
        Cause("reconstructions or samples", ("measured.samples",)),
        Cause("rule for 8 bits", ("measured.reconstructions",)),
        Cause("extractor", ("measured.extractor", "measured.layer", "measured.input*"), UNITS),
        Cause("weights of the extractor", ("measured.*_sha256", "measured.weights*"), UNITS),
    )
    model: str = Field("", json_schema_extra=PLACE)
    """A repository of the hub, or a folder, in transformers' form; its content is hashed."""
    reference: Slot[SourceConfig] | None = None
    """Images to compare with; not given: the suite's own, of which each has its reconstruction."""


class FdDinov2Config(VisionConfig):
    """Fréchet distance between DINOv2 features of the images and of their reconstructions (Stein et al., 2023,
    arXiv 2306.04675): of the class token behind the last norm, at 224 pixels."""

    type: Literal["fd-dinov2"] = "fd-dinov2"
    model: str = Field("facebook/dinov2-large", json_schema_extra=PLACE)
    """A repository of the hub, or a folder, in transformers' form; its content is hashed. Published numbers are of
    ViT-L/14."""
    few: bool = False
    """Give a number even where there are no more images than features, though its bias is then large."""


class CmmdConfig(VisionConfig):
    """CMMD (Jayasumana et al., 2024, arXiv 2401.09603): the squared MMD between CLIP embeddings, with a Gaussian kernel
    of width 10, times 1000. It assumes no normal distribution, and few images bias it little."""

    type: Literal["cmmd"] = "cmmd"
    model: str = Field("openai/clip-vit-large-patch14-336", json_schema_extra=PLACE)
    """A repository of the hub, or a folder, in transformers' form; its content is hashed. Published numbers are of
    ViT-L/14 at 336 pixels."""
