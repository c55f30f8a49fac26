"""The settings of the source `digits`. Imports no torch."""

from __future__ import annotations

from typing import Literal

from flexframe_registry import SourceConfig


class DigitsConfig(SourceConfig):
    """The 1,797 handwritten digits that scikit-learn ships (8 x 8, grey), enlarged; every fifth is held out."""

    type: Literal["digits"] = "digits"
    split: Literal["train", "val"] = "train"
    """`train` (1,438 images), or the held-out `val` (359: the indices 4, 9, 14, ...)."""
