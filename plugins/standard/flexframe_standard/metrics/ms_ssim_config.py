"""Settings of MS-SSIM. Imports no torch."""

from __future__ import annotations

from typing import Literal

from flexframe_standard.metrics.per_image_config import PerImageConfig


class MsSsimConfig(PerImageConfig):
    """Structural similarity over five scales of each image (Wang et al., 2003), averaged over images."""

    type: Literal["ms-ssim"] = "ms-ssim"
