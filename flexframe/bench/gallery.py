"""The report that a benchmark hands to its page and to hooks: numbers, and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class Gallery:
    """The first images of a suite, and each model's reconstructions of them by token count. All 8-bit, on the CPU."""

    real: UInt8[Tensor, "n 3 h w"]
    fake: Mapping[str, Mapping[int, Tensor]]
    numbers: Sequence[int] = ()
    """Each image's position in the suite; empty: 0, 1, 2, ..."""
    further: Gallery | None = None
    """Each model's best and worst images, where they are not among these."""


@dataclass(frozen=True, repr=False)
class Report:
    """The report of a run: `results` is the content of results.json (`flexframe.bench.results`).

    In a notebook it shows its table, curves and pictures, elsewhere its table.
    """

    results: Mapping[str, Any]
    images: Gallery
    out: Path
    remarks: Sequence[str] = ()
    """Remarks of the source that a user must know of the suite's images."""

    @property
    def page(self) -> Path:
        """The place of the page, where one was written."""
        return self.out / "report.html"

    def __repr__(self) -> str:
        from flexframe.bench import notebook  # it draws

        return notebook.text(self)

    def _repr_html_(self) -> str:
        from flexframe.bench import notebook

        return notebook.html(self)
