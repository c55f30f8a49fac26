"""Verdicts on two models that spend the same: equal tokens, or equal bits where tokens differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from flexframe.bench.intervals import Comparison
from flexframe.bench.report.numbers import Column, Lane, Numbers
from flexframe.bench.table import shown_bits

SAME_BITS = 0.01
"""Bits that differ by no more than this share count as equal."""
SIGNS = {"better": "▲", "worse": "▼", "not distinguishable": "≈"}


@dataclass(frozen=True)
class Row:
    """Two models at one expense."""

    first: str
    second: str
    at: str
    """The expense that is equal, `tokens` or `bits`."""
    equal: str
    """"tokens" or "bits"."""
    expense: float
    cells: Sequence[Comparison | None]
    """Comparisons in the order of the columns."""


@dataclass(frozen=True)
class Verdicts:
    """All comparisons that can be made, and the pairs of models for which there is none."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    apart: Sequence[tuple[str, str]]

    @property
    def made(self) -> int:
        """The number of comparisons."""
        return sum(cell is not None for row in self.rows for cell in row.cells)


def judge(numbers: Numbers) -> Verdicts:
    """Compare all pairs of models at all expenses that they share."""
    models = numbers.results["models"]
    rows: list[Row] = []
    apart: list[tuple[str, str]] = []
    for first, second in combinations(models, 2):
        compared = [_row(numbers, a, b, equal) for a, b, equal in _meetings(models, first, second)]
        rows += [row for row in compared if any(row.cells)]
        if not compared:
            apart.append((first, second))
    rows.sort(key=lambda row: (row.equal != "tokens", row.expense))
    told = [i for i, column in enumerate(_directed(numbers)) if any(row.cells[i] for row in rows)]
    columns = [_directed(numbers)[i] for i in told]
    kept = [Row(r.first, r.second, r.at, r.equal, r.expense, [r.cells[i] for i in told]) for r in rows]
    return Verdicts(columns, kept, apart)


def sentences(numbers: Numbers, verdicts: Verdicts, most: int = 3) -> list[str]:
    """The verdicts by the leading number, in words."""
    column = numbers.lead
    if column is None or column not in verdicts.columns:
        return []
    place = list(verdicts.columns).index(column)
    told = []
    for row in verdicts.rows:
        cell = row.cells[place]
        if cell is None:
            continue
        low, high = sorted((abs(cell.low), abs(cell.high)))
        span = f"{column.text(low)} to {column.text(high)}"
        if cell.verdict == "not distinguishable":
            ends = f"{column.signed(cell.low)} to {column.signed(cell.high)}"
            text = f"{row.first} and {row.second} cannot be told apart by {column.label} ({ends} {column.unit})"
        else:
            winner, loser = (row.first, row.second) if cell.verdict == "better" else (row.second, row.first)
            by = column.text(abs(cell.difference), unit=True)
            text = f"{winner} is better than {loser} by {by} of {column.label} ({span})"
        told.append(f"At {row.at}: {text}.")
    return told[:most]


def _directed(numbers: Numbers) -> list[Column]:
    return [column for column in numbers.columns if column.directed]


def _meetings(models: Mapping[str, Any], first: str, second: str) -> Iterator[tuple[Lane, Lane, str]]:
    ours, theirs = models[first]["budgets"], models[second]["budgets"]
    for k in ours:
        if k in theirs:
            yield (first, int(k)), (second, int(k)), "tokens"
    for k, mine in ours.items():
        for other, entry in theirs.items():
            if k != other and k not in theirs and other not in ours and _same(mine["bits"], entry["bits"]):
                yield (first, int(k)), (second, int(other)), "bits"


def _same(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and abs(a - b) <= SAME_BITS * max(a, b)


def _row(numbers: Numbers, first: Lane, second: Lane, equal: str) -> Row:
    models = numbers.results["models"]
    bits = [models[name]["budgets"][str(k)]["bits"] for name, k in (first, second)]
    if equal == "bits":
        at, expense = f"{shown_bits(bits[0])} bits ({first[1]} and {second[1]} tokens)", bits[0]
    elif _same(*bits):
        at, expense = f"{tokens(first[1])} ({shown_bits(bits[0])} bits each)", first[1]
    else:
        told = " and ".join("continuous" if b is None else f"{shown_bits(b)} bits" for b in bits)
        at, expense = f"{tokens(first[1])} ({told})", first[1]
    cells = [numbers.compare(column, first, second) for column in _directed(numbers)]
    return Row(first[0], second[0], at, equal, float(expense), cells)


def tokens(count: int) -> str:
    """A number of tokens as text."""
    return f"{count:,} token" + ("" if count == 1 else "s")
