"""SSIM (Wang et al., 2004): the structural similarity of two images."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure
from flexframe_registry import Spec
from flexframe_standard.metrics.per_image import PerImage
from flexframe_standard.metrics.ssim_config import SsimConfig


class Ssim(PerImage[SsimConfig]):
    """torchmetrics' SSIM with a Gaussian window on RGB, each image by itself.

    Images are reflected at their borders, and the windows there count. Others leave them out (scikit-image): of small
    images that is another number, by several hundredths at 16 pixels.
    """

    measure = Measure("ssim", "SSIM", "higher", digits=3)

    def unavailable(self, spec: Spec) -> str | None:
        window, size = self.config.window(), min(self.source.size)
        if size < window:
            return (
                f"images are {size} pixels at the least, the window is {window}; set `sigma` lower or use larger images"
            )
        return None

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        from torchmetrics.functional.image import structural_similarity_index_measure  # seconds to import

        similarity = structural_similarity_index_measure(
            fake, real, sigma=self.config.sigma, reduction="none", data_range=255.0
        )
        assert isinstance(similarity, Tensor)
        return similarity.reshape(len(real))

    def protocol(self) -> Mapping[str, Any]:
        window = {"window": self.config.window(), "sigma": self.config.sigma, "data_range": 255, "k": [0.01, 0.03]}
        borders = {"borders": "reflected and counted"}
        return {**super().protocol(), **window, **borders, "torchmetrics": version("torchmetrics")}
