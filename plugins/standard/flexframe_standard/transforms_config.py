"""Configs of the transforms of training images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_registry import TransformConfig


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
