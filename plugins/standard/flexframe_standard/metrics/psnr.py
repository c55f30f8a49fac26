"""PSNR: the peak signal-to-noise ratio of two images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure
from flexframe_standard.metrics.per_image import PerImage
from flexframe_standard.metrics.psnr_config import PsnrConfig


class Psnr(PerImage[PsnrConfig]):
    """10 log10(255² / MSE) of each image over pixels and channels, then the mean over images."""

    measure = Measure("psnr", "PSNR", "higher", "dB")

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        mse = (real.double() - fake.double()).square().flatten(1).mean(1)
        return (10 * torch.log10(255.0**2 / mse)).clamp(max=self.config.cap)

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "peak": 255, "cap_db": self.config.cap}
