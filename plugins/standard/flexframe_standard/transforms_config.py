"""Configs of the transforms of training images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from flexframe_registry import ConfigError, TransformConfig


class FlipConfig(TransformConfig):
    """Mirror an image, left to right."""

    type: Literal["flip"] = "flip"
    probability: float = Field(0.5, gt=0, le=1)
    """Probability of mirroring an image."""


class ShiftConfig(TransformConfig):
    """Move an image along each axis, edges repeated."""

    type: Literal["shift"] = "shift"
    pixels: int = Field(ge=1)
    """The most pixels along each axis."""


class VerticalFlipConfig(TransformConfig):
    """Mirror an image, top to bottom."""

    type: Literal["vertical-flip"] = "vertical-flip"
    probability: float = Field(0.5, gt=0, le=1)
    """Probability of mirroring an image."""


class RandomResizedCropConfig(TransformConfig):
    """A part of an image, of random area, shape and place, brought to the whole's size: torchvision's
    `v2.RandomResizedCrop`, drawn by each image's number.

    It sees images as the source gives them, cropped and brought to size, so that a small part is enlarged.
    """

    type: Literal["random-resized-crop"] = "random-resized-crop"
    scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and largest width over height, drawn on a logarithm."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How the part is brought to size, antialiased."""

    @field_validator("scale", "ratio")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ConfigError.at("", f"is {list(value)}; a range of numbers above 0, the smaller one first")
        return value


class ColourJitterConfig(TransformConfig):
    """Change brightness, contrast, saturation and hue of an image, in random order: torchvision's `v2.ColorJitter`,
    drawn by each image's number. 0 leaves one as it is."""

    type: Literal["colour-jitter"] = "colour-jitter"
    brightness: float = Field(0.0, ge=0)
    """A factor is drawn between 1 less this, at least 0, and 1 and this."""
    contrast: float = Field(0.0, ge=0)
    """The same of contrast."""
    saturation: float = Field(0.0, ge=0)
    """The same of saturation."""
    hue: float = Field(0.0, ge=0, le=0.5)
    """Turns of the colour circle, at the most, either way."""


class GrayscaleConfig(TransformConfig):
    """Take the colours of an image away, as torchvision's `v2.RandomGrayscale` does."""

    type: Literal["grayscale"] = "grayscale"
    probability: float = Field(0.1, gt=0, le=1)
    """Probability for an image."""
