"""What is no method: the identity codec, data sources, metrics. Registered through the same hook as a stranger's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from flexframe_registry import CodecConfig, Component, LatentSpec, hookimpl
from pydantic import Field


class IdentityCodecConfig(CodecConfig):
    """Latents are the images themselves, or latents that come from elsewhere."""

    type: Literal["identity"] = "identity"
    channels: int = Field(3, ge=1)
    """Channels of the latents; 3 for images."""
    downsample: int = Field(1, ge=1)
    """Image pixels along each axis for one latent; 1 for images. Above 1, only latents can be fed."""
    range: tuple[float, float] | None = (0.0, 1.0)
    """The values' bounds, or null for unbounded latents."""

    def latents(self, height: int, width: int) -> LatentSpec:
        return LatentSpec(self.channels, height // self.downsample, width // self.downsample, self.range)


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return [
        Component(IdentityCodecConfig, "flexframe.builtin.codec:IdentityCodec"),
    ]
