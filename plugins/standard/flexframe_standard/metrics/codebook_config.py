"""Settings of the use of the codebook: none. Imports no torch."""

from __future__ import annotations

from typing import Literal

from flexframe_registry import MetricConfig


class CodebookConfig(MetricConfig):
    """Use of the codebook by the images: the fraction of entries, and the perplexity of their frequencies."""

    type: Literal["codebook"] = "codebook"
