"""MS-SSIM (Wang et al., 2003): structural similarity over several scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flexframe.bench.metric import Measure
from flexframe_registry import Spec
from flexframe_standard.metrics.ms_ssim_config import MsSsimConfig
from flexframe_standard.metrics.per_image import PerImage
from flexframe_standard.metrics.ssim import parts

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (section 3.2)."""
SIGMA, WINDOW = 1.5, 11


class MsSsim(PerImage[MsSsimConfig]):
    """Contrast and structure of every scale and luminance of the coarsest, of each channel; then the mean over RGB.

    Windows over the border are left out, and a scale has half the size of the one before it, by the mean of four pixels
    (a last odd row or column is left out). Negative values count as 0, as in pytorch-msssim.
    """

    measure = Measure("ms_ssim", "MS-SSIM", "higher", digits=3)

    def unavailable(self, spec: Spec) -> str | None:
        least, size = WINDOW << (len(WEIGHTS) - 1), min(self.source.size)
        if size < least:
            return f"images are {size} pixels at the least, and five scales of a window of {WINDOW} need {least}"
        return None

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        if real.device.type == "mps":  # which knows no float64
            return self.values(real.cpu(), fake.cpu()).to(real.device, torch.float32)
        x, y = real.double(), fake.double()
        product = x.new_ones(x.shape[:2])
        for scale, weight in enumerate(WEIGHTS, 1):
            luminance, structure = parts(x, y, SIGMA)
            mean = (structure if scale < len(WEIGHTS) else luminance * structure).mean((2, 3))
            product *= mean.clamp(min=0) ** weight
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        return product.mean(1)

    def protocol(self) -> Mapping[str, Any]:
        window = {"window": WINDOW, "sigma": SIGMA, "data_range": 255, "k": [0.01, 0.03], "borders": "left out"}
        return {**super().protocol(), **window, "scales": list(WEIGHTS), "halved": "by the mean of 2 x 2 pixels"}
