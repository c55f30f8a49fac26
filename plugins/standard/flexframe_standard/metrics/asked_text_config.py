"""Settings of what captions ask and pictures show. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import Cause


class AskedTextConfig(MetricConfig):
    """Share of pictures that show what a caption asks, fact by fact and all at once, by the reader that comes with the
    suite's source.

    Samples of a prior of texts answer to the captions that they were drawn from; reconstructions of the images
    themselves to all of them, and are what a perfect prior could reach.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("reconstructions or samples", ("measured.pictures",)),
        Cause("reader of captions", ("measured.*",), "another reader sees other facts: no number of it compares"),
    )
    type: Literal["asked"] = "asked"
