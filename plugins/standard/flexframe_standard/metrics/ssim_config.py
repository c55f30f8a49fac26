"""Settings of SSIM. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.per_image_config import PerImageConfig


class SsimConfig(PerImageConfig):
    """Structural similarity of each image (Wang et al., 2004), averaged over images."""

    causes: ClassVar[Sequence[Cause]] = (
        *PerImageConfig.causes,
        Cause(
            "borders of SSIM",
            ("measured.borders",),
            "windows over the border left out (the paper, scikit-image, pytorch-msssim, piq) or filled by reflection "
            "(torchmetrics, kornia): of small images several hundredths, and blur and noise change places. Measure "
            "with `borders: mirror` to compare with a number of the latter",
        ),
        Cause("setting of SSIM's borders", ("metric.borders",), "told by what was measured", moves="nothing"),
        Cause("versions", ("measured.torchmetrics",)),  # of results of before
    )
    unsaid: ClassVar[Mapping[str, str]] = {"measured.borders": "reflected and counted"}
    type: Literal["ssim"] = "ssim"
    sigma: float = Field(1.5, gt=0)
    """Standard deviation of the Gaussian window in pixels; the window is 2 * floor(3.5 sigma + 0.5) + 1 wide."""
    borders: Literal["crop", "mirror"] = "crop"
    """Windows that reach over an image's border: left out, as the paper and scikit-image have it (also pytorch-msssim
    and piq), or filled by the image's reflection, as torchmetrics and kornia do and this metric did before. Of small
    images that is another number and another order of methods: of 32 pixels, by several hundredths."""

    def window(self) -> int:
        """Width of the window in pixels; no image may be smaller."""
        return 2 * int(3.5 * self.sigma + 0.5) + 1
