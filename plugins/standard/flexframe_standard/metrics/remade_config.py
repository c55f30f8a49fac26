"""Settings of the metrics for which models work on once more. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import Cause


class ReEncodingConfig(MetricConfig):
    """Share of token ids that stay when a reconstruction is encoded again, and PSNR after several such rounds."""

    causes: ClassVar[Sequence[Cause]] = (
        Cause("rounds of re-encoding", ("metric.rounds", "measured.rounds"), "each round loses more"),
    )
    type: Literal["re-encoding"] = "re-encoding"
    rounds: int = Field(10, ge=2)
    """Rounds of encoding and decoding, the first one counted; each costs as much as the reconstruction itself."""


class SeedSpreadConfig(MetricConfig):
    """How far an image's reconstructions by other seeds of the decoder lie apart, in PSNR and in pixels."""

    causes: ClassVar[Sequence[Cause]] = (
        Cause("number of seeds", ("metric.seeds", "measured.seeds"), "a spread of few seeds is a rough one"),
    )
    type: Literal["seed-spread"] = "seed-spread"
    seeds: int = Field(4, ge=2)
    """Reconstructions of each image, the run's own counted; each costs as much as that one's decoding."""
