"""SSIM (Wang et al., 2004): the structural similarity of two images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flexframe.bench.metric import Measure
from flexframe_registry import Spec
from flexframe_standard.metrics.per_image import PerImage
from flexframe_standard.metrics.ssim_config import SsimConfig

BORDERS = {"crop": "left out", "mirror": "reflected and counted"}
"""What becomes of windows that reach over an image's border, by the setting's word."""


class Ssim(PerImage[SsimConfig]):
    """The similarity under a Gaussian window, the mean over RGB and all places, each image by itself."""

    measure = Measure("ssim", "SSIM", "higher", digits=3)

    def unavailable(self, spec: Spec) -> str | None:
        window, size = self.config.window(), min(self.source.size)
        if size < window:
            return (
                f"images are {size} pixels at the least, the window is {window}; set `sigma` lower or use larger images"
            )
        return None

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return similarity(real, fake, self.config.sigma, mirror=self.config.borders == "mirror")

    def protocol(self) -> Mapping[str, Any]:
        window = {"window": self.config.window(), "sigma": self.config.sigma, "data_range": 255, "k": [0.01, 0.03]}
        return {**super().protocol(), **window, "borders": BORDERS[self.config.borders]}


def similarity(
    real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"], sigma: float, *, mirror: bool
) -> Float[Tensor, " b"]:
    """SSIM of each pair, with K1 = 0.01, K2 = 0.03 and a range of 255 (Wang et al., 2004, sections III.B and C).

    In float64, and by products with a banded matrix, which on a CPU is several times as fast as a convolution.

    Args:
        real: images in 8-bit steps.
        fake: what is compared with them.
        sigma: standard deviation of the window, in pixels.
        mirror: whether windows over the border see the image's reflection; without, they are left out.
    """
    if real.device.type == "mps":  # which knows no float64
        return similarity(real.cpu(), fake.cpu(), sigma, mirror=mirror).to(real.device, torch.float32)
    x, y, radius = real.double(), fake.double(), int(3.5 * sigma + 0.5)
    if mirror:
        x, y = (F.pad(each, (radius,) * 4, mode="reflect") for each in (x, y))
    luminance, structure = parts(x, y, sigma)
    return (luminance * structure).mean((1, 2, 3))


def parts(x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], sigma: float) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, luminance, and contrast with structure, wherever a whole window is in the images."""
    rows, columns = (_averaging(n, sigma, x.device) for n in x.shape[2:])
    mean_x, mean_y, xx, yy, xy = (rows @ each @ columns.mT for each in (x, y, x * x, y * y, x * y))
    one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    return (2 * product + one) / (squares + one), (2 * (xy - product) + two) / (xx + yy - squares + two)


@cache
def _averaging(size: int, sigma: float, device: torch.device) -> Float[Tensor, "n size"]:
    """A row a place of the window: its weights at the pixels below it."""
    radius = int(3.5 * sigma + 0.5)
    steps = (
        torch.arange(size, dtype=torch.float64, device=device)
        - torch.arange(radius, size - radius, dtype=torch.float64, device=device)[:, None]
    )
    weights = torch.exp(-steps.square() / (2 * sigma**2)).masked_fill(steps.abs() > radius, 0)
    return weights / weights.sum(1, keepdim=True)
