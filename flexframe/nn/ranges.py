"""A map between a codec's value range and the one that a part works in."""

from __future__ import annotations

from torch import Tensor

from flexframe_registry import LatentSpec


class Rescale:
    """Affine map from the latents' bounds to `to`; the identity on unbounded latents."""

    def __init__(self, latents: LatentSpec, to: tuple[float, float]) -> None:
        low, high = latents.range or to
        self.scale = (to[1] - to[0]) / (high - low)
        self.shift = to[0] - low * self.scale

    def __call__(self, values: Tensor) -> Tensor:
        return values if (self.scale, self.shift) == (1.0, 0.0) else values * self.scale + self.shift

    def inverse(self, values: Tensor) -> Tensor:
        """Values of the part's range to those of the codec's."""
        return values if (self.scale, self.shift) == (1.0, 0.0) else (values - self.shift) / self.scale
