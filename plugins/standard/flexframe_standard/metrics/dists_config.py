"""Settings of DISTS. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry.config import PLACE
from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.per_image_config import PerImageConfig


class DistsConfig(PerImageConfig):
    """Perceptual distance DISTS of each image (Ding et al., 2020, arXiv 2004.07728), averaged over images: structure
    and texture of VGG-16's features, so that one grass for another costs little."""

    causes: ClassVar[Sequence[Cause]] = (
        *PerImageConfig.causes,
        Cause("weights of the extractor", ("measured.*_sha256",), "another network, whose distances never compare"),
    )
    type: Literal["dists"] = "dists"
    backbone: str | None = Field(None, json_schema_extra=PLACE)
    """File of torchvision's weights of VGG-16 (safetensors or PyTorch's); not given: the one in torch's hub folder,
    fetched if need be."""
    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of the weights by channel, `alpha` and `beta`; not given: those that come with torchmetrics."""
