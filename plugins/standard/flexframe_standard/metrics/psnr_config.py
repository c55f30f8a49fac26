"""Settings of PSNR. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_standard.metrics.per_image_config import PerImageConfig


class PsnrConfig(PerImageConfig):
    """Peak signal-to-noise ratio of each image, averaged over images in dB."""

    type: Literal["psnr"] = "psnr"
    cap: float = Field(100.0, gt=0)
    """The most dB that one image counts for; an exact reconstruction would be infinite."""
