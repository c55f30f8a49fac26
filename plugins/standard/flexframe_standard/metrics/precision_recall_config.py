"""Settings of precision and recall. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.inception_config import LayerConfig


class PrecisionRecallConfig(LayerConfig):
    """Precision and recall of the reconstructions among the images, by neighbours in Inception features.

    Kynkäänniemi et al., 2019, on Inception features in place of VGG's, as torch-fidelity has it.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("settings of precision and recall", ("metric.k",), "more neighbours are larger balls: both rise with k"),
        *LayerConfig.causes,
    )
    type: Literal["precision-recall"] = "precision-recall"
    k: int = Field(3, ge=1)
    """The neighbour whose distance is the radius of an image's ball."""
    few: bool = False
    """Give numbers of fewer than 1,000 images, though they say little."""
