"""Runs of one recipe as one row: what another seed of the training changes, which no interval over images holds.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from flexframe.bench.board import Board, Row
from flexframe.bench.intervals import LEVEL, student_t
from flexframe_registry import ConfigError


def over_seeds(boards: Sequence[Board]) -> None:
    """Join the rows of runs of one recipe that were used alike: each number becomes the runs' mean, and `spans` half
    the width of its 95 % interval by Student's t. Rows of one run stay.

    Raises:
        ConfigError: no two rows are of one recipe.
    """
    joined = 0
    for board in boards:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for number, row in enumerate(board.rows):
            key = (row.recipe, row.tokens, row.use) if row.recipe else number
            groups.setdefault((key,), []).append(row)
        board.rows = [_joined(rows) if len({row.seed for row in rows}) > 1 else rows[0] for rows in groups.values()]
        joined += sum(len({row.seed for row in rows}) > 1 for rows in groups.values())
    if not joined:
        text = "no two models are of one recipe (config and run) with other seeds; leave it out, or measure more runs"
        raise ConfigError.at("--over-seeds", text)


def _joined(rows: Sequence[Row]) -> Row:
    first = rows[0]
    of = {place: [row.numbers[place] for row in rows if place in row.numbers] for place in first.numbers}
    several = {place: values for place, values in of.items() if len(values) > 1}
    spans = {place: student_t(len(v) - 1, LEVEL) * stdev(v) / len(v) ** 0.5 for place, v in several.items()}
    numbers = {place: fmean(values) for place, values in of.items()}
    return replace(
        first,
        model=f"{_common([row.model for row in rows])} ({len(rows)} seeds)",
        numbers=numbers,
        spans=spans,
        fingerprint="",
        origin=first.origin,
    )


def _common(models: Sequence[str]) -> str:
    """Give the name of runs that differ by the number at its end alone; else the first one's."""
    names = {name.partition(" (")[0]: None for name in models}
    stems = {re.sub(r"[\W_]*\d+$", "", name) for name in names}
    return stems.pop() if len(names) > 1 == len(stems) else next(iter(names))
