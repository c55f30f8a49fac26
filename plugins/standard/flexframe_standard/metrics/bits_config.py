"""Settings of the count of bits: none. Imports no torch."""

from __future__ import annotations

from typing import Literal

from flexframe_registry import MetricConfig


class BitsConfig(MetricConfig):
    """Bits and tokens of an image, averaged over images."""

    type: Literal["bits"] = "bits"
