"""Settings of LPIPS. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_registry.kinds import PLACE
from flexframe_standard.metrics.per_image_config import PerImageConfig


class LpipsConfig(PerImageConfig):
    """Perceptual distance LPIPS 0.1 of each image (Zhang et al., 2018), averaged over images."""

    type: Literal["lpips"] = "lpips"
    net: Literal["alex", "vgg", "squeeze"] = "alex"
    """The network in whose features images are compared; distances in different ones do not compare."""
    backbone: str | None = Field(None, json_schema_extra=PLACE)
    """File of torchvision's weights of that network (safetensors or PyTorch's); not given: the one in torch's hub
    folder, fetched if need be."""
    linear: str | None = Field(None, json_schema_extra=PLACE)
    """File of the weights by channel; not given: those that come with torchmetrics."""
