"""Pictures drawn from priors, which a result may name and the page then shows.

`results["samples"]` is a list of rows, each of one prior at one length:

prior       the prior's name
length      tokens of a sample
files       image files, one a sample; relative ones are looked for beside the page
labels      what each was asked for (a class, a caption), as text; may be missing
accepted    for each, whether a classifier sees the class asked for; may be missing
judge       that classifier's name, as `second judge`; may be missing
of          the tokenizer whose tokens the prior draws; may be missing
about       one line: how they were drawn (seed, temperature, guidance, ...); may be missing
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from flexframe.bench.report.pictures import COLUMNS, uri

MOST = 16
"""Samples of a row that are shown."""
NEEDED = {"prior", "length", "files"}
KNOWN = NEEDED | {"labels", "about", "accepted", "judge", "of"}


@dataclass(frozen=True)
class Row:
    """One prior at one length."""

    length: int
    uri: str
    labels: Sequence[str]
    about: str
    more: int
    """Samples that are not shown."""
    height: int
    width: int
    count: int
    """Samples in all."""
    accepted: Sequence[bool] | None = None
    """For each sample in all, whether a classifier sees the class asked for, where it was asked."""
    judge: str = "classifier"
    """The name of that classifier."""

    @property
    def right(self) -> int | None:
        """Samples in which a classifier sees the class asked for, where it was asked."""
        return None if self.accepted is None else sum(self.accepted)

    @property
    def columns(self) -> int:
        """Samples beside each other."""
        return min(COLUMNS, len(self.labels))

    @property
    def rows(self) -> int:
        """Samples below each other."""
        return -(-len(self.labels) // COLUMNS)


@dataclass(frozen=True)
class Drawn:
    """The samples of one prior, by length."""

    prior: str
    rows: Sequence[Row]
    of: str | None = None
    """The tokenizer whose tokens it draws, where that is told."""

    @property
    def judge(self) -> str:
        """The name of the classifier that was asked what they show."""
        return self.rows[0].judge

    @property
    def about(self) -> str:
        """The line on how they were drawn, where it is the same of all lengths."""
        lines = {row.about for row in self.rows}
        return lines.pop() if len(lines) == 1 else ""


def read(results: Mapping[str, Any], folder: Path) -> list[Drawn]:
    """The samples that `results` names, read from their files.

    Raises:
        ValueError: an entry that is not as described above, a file that is none, or pictures of unequal size.
    """
    by_prior: dict[str, list[Row]] = {}
    of: dict[str, str | None] = {}
    for i, entry in enumerate(results.get("samples") or []):
        where = f"samples[{i}]"
        if not NEEDED <= set(entry) <= KNOWN:
            wanted = ", ".join(sorted(NEEDED))
            raise ValueError(f"{where} has the fields {', '.join(sorted(entry))}; needed are {wanted}")
        files = [folder / name for name in entry["files"]]
        labels = [str(label) for label in entry.get("labels") or [""] * len(files)]
        if not files or len(labels) != len(files):
            raise ValueError(f"{where} has {len(files)} files and {len(labels)} labels; give one label a file")
        pictures = [_read(path, where) for path in files[:MOST]]
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError(f"{where} has pictures of several sizes; give one row a size")
        stack = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        height, width = stack.shape[2:]
        row = Row(
            entry["length"], uri(stack), labels[:MOST], str(entry.get("about") or ""), len(files) - len(pictures),
            height, width, count=len(files), accepted=entry.get("accepted"),
            judge=str(entry.get("judge") or "classifier"),
        )  # fmt: skip
        if row.accepted is not None and len(row.accepted) != len(files):
            raise ValueError(f"{where} has {len(files)} files and {len(row.accepted)} in `accepted`; give one a file")
        by_prior.setdefault(str(entry["prior"]), []).append(row)
        of[str(entry["prior"])] = entry.get("of")
    sorted_rows = {prior: sorted(rows, key=lambda row: row.length) for prior, rows in by_prior.items()}
    return [Drawn(prior, rows, of[prior]) for prior, rows in sorted_rows.items()]


def _read(path: Path, where: str) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except OSError as error:
        raise ValueError(f"{where} names {path}, which is no readable image: {error}") from error
