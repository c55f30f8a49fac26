"""Settings of precision and recall. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry import SourceConfig
from flexframe_registry.kinds import Cause
from flexframe_registry.slots import Slot
from flexframe_standard.metrics.inception_config import LayerConfig


class PrecisionRecallConfig(LayerConfig):
    """Precision and recall of the reconstructions among the images, by neighbours in Inception features.

    Kynkäänniemi et al., 2019, on Inception features in place of VGG's, as torch-fidelity has it.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("settings of precision and recall", ("metric.k",), "more neighbours are larger balls: both rise with k"),
        Cause("the reference's setting", ("metric.reference*",), "told by what was measured of it", moves="nothing"),
        *LayerConfig.causes,
    )
    later = frozenset({"reference"})
    type: Literal["precision-recall"] = "precision-recall"
    k: int = Field(3, ge=1)
    """The neighbour whose distance is the radius of an image's ball."""
    reference: Slot[SourceConfig] | None = None
    """Images to stand in the place of the suite's own, however many: ADM's form, whose reference batch of 10,000 images
    (`{type: images, path: VIRTUAL_imagenet256_labeled.npz}`) stands against 50,000 samples."""
    few: bool = False
    """Give numbers of fewer than 1,000 images, though they say little."""
