"""Settings of LPIPS. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry.config import PLACE
from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.per_image_config import PerImageConfig


class LpipsConfig(PerImageConfig):
    """Perceptual distance LPIPS 0.1 of each image (Zhang et al., 2018), averaged over images."""

    causes: ClassVar[Sequence[Cause]] = (
        *PerImageConfig.causes,
        Cause("versions", ("measured.torchvision",)),
        Cause("extractor", ("metric.net", "measured.net"), "distances in different networks never compare"),
        Cause("weights of the extractor", ("measured.*_sha256",), "another network, whose distances never compare"),
    )
    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "alex"
    """The network in whose features images are compared; distances in different ones do not compare."""
    backbone: str | None = Field(None, json_schema_extra=PLACE)
    """File of torchvision's weights of that network (safetensors or PyTorch's); not given: the one in torch's hub
    folder, fetched if need be."""
    linear: str | None = Field(None, json_schema_extra=PLACE)
    """File of the weights by channel; not given: those that come with torchmetrics."""
