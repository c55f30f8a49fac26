"""Settings of the Inception score. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_standard.metrics.inception_config import InceptionConfig


class InceptionScoreConfig(InceptionConfig):
    """Inception score of the reconstructions (Salimans et al., 2016), with torch-fidelity's classes and splits."""

    type: Literal["inception-score"] = "inception-score"
    splits: int = Field(10, ge=1)
    """Parts of the images that are scored by themselves; fewer parts give a higher score."""
    seed: int = Field(2020, ge=0, lt=2**32)
    """Seed of the order in which images are split."""
    few: bool = False
    """Give a number even where a split holds fewer images than there are classes."""
