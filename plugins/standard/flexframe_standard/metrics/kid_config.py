"""Settings of the kernel distance (KID). Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_standard.metrics.inception_config import LayerConfig


class KidConfig(LayerConfig):
    """Kernel distance (KID) between Inception features of the images and of their reconstructions."""

    type: Literal["kid"] = "kid"
    subsets: int = Field(100, ge=1)
    """Random subsets whose distances are averaged."""
    subset_size: int = Field(1000, ge=2)
    """Images of each kind in a subset; fewer images than that have no number."""
    seed: int = Field(2020, ge=0, lt=2**32)
    """Seed of the subsets."""
