"""Settings that metrics have in common that are a mean over images. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import Cause


class PerImageConfig(MetricConfig):
    """A mean over images of one value each."""

    causes: ClassVar[Sequence[Cause]] = (Cause("rule for 8 bits", ("metric.rounded", "measured.reconstructions")),)
    rounded: bool = False
    """Round reconstructions to 8 bits first, as if read back from files. Then a pixel on the edge of a step, where a
    batch of another size computes another last digit, moves an image's number."""
