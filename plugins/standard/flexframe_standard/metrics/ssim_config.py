"""Settings of SSIM. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.per_image_config import PerImageConfig


class SsimConfig(PerImageConfig):
    """Structural similarity of each image (Wang et al., 2004), averaged over images."""

    causes: ClassVar[Sequence[Cause]] = (*PerImageConfig.causes, Cause("versions", ("measured.torchmetrics",)))
    type: Literal["ssim"] = "ssim"
    sigma: float = Field(1.5, gt=0)
    """Standard deviation of the Gaussian window in pixels; the window is 2 * floor(3.5 sigma + 0.5) + 1 wide."""

    def window(self) -> int:
        """Width of the window in pixels; no image may be smaller."""
        return 2 * int(3.5 * self.sigma + 0.5) + 1
