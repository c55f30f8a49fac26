"""Settings of the share judged plausible. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import Cause
from flexframe_standard.metrics.classifier_config import Which


class PlausibleConfig(MetricConfig):
    """Share of pictures that a classifier is as sure of as of nine in ten real ones.

    The classifier comes with the suite's source, and says what is as sure: of scenes, a confidence of at least the 10th
    percentile of that of real scenes, which are none of the suite's. It asks no truth, so it is defined of
    reconstructions and of samples alike. Of real images it is about 90 %.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("reconstructions or samples", ("measured.pictures",)),
        Cause(
            "classifier and threshold",
            ("measured.*",),
            "another classifier is sure of other pictures: no number of it compares",
        ),
    )
    type: Literal["plausible"] = "plausible"
    judge: Which = None
    """`second`: the source's other classifier; not given: its first. The number is then `second_plausible`."""
