"""Settings of the count of bits under a prior. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import Cause


class CodedBitsConfig(MetricConfig):
    """Bits of an image's tokens under a prior, which entropy coding comes to but for a fraction of a bit an image, and
    how much each token surprises.

    Classes are told to a prior of classes; texts are told to none.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("priors", ("measured.priors.*",), "another prior expects other tokens: no number of it compares"),
    )
    type: Literal["coded-bits"] = "coded-bits"
    priors: tuple[str, ...] = ()
    """Priors, as `flexframe.load` takes them; each model is coded under the one of its own codes."""
