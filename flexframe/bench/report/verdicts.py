"""Verdicts on two models that spend the same: equal tokens, or equal bits where tokens differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from flexframe.bench.intervals import Comparison
from flexframe.bench.report.numbers import Column, Lane, Numbers
from flexframe.bench.table import shown_bits

SAME_BITS = 0.01
"""Bits that differ by no more than this share count as equal."""
SIGNS = {"better": "▲ better", "worse": "▼ worse", "not distinguishable": "≈ undecided"}
NEAR = 5.0
"""Percent of the pictures by which a share may miss that of the originals and still be as good as it."""
MOST = 8
"""Token counts that a sentence goes through."""


@dataclass(frozen=True)
class Row:
    """Two models at one expense."""

    lanes: tuple[Lane, Lane]
    bits: tuple[float | None, float | None]
    """Bits of an image, of each."""
    at: str
    """The expense that is equal, `tokens` or `bits`."""
    equal: str
    """"tokens" or "bits"."""
    expense: float
    cells: Sequence[Comparison | None]
    """Comparisons in the order of the columns."""

    @property
    def first(self) -> str:
        """The model that is compared."""
        return self.lanes[0][0]

    @property
    def second(self) -> str:
        """The model that it is compared with."""
        return self.lanes[1][0]


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
    kept = [replace(row, cells=[row.cells[i] for i in told]) for row in rows]
    return Verdicts(columns, kept, apart)


def strengths(numbers: Numbers, verdicts: Verdicts) -> list[tuple[str, list[str]]]:
    """The strengths of each model: by name, its numbers at its fewest and most tokens, and whom it equals or beats.

    The numbers are the leading one, and the first of each metric of shares.
    """
    lead = [] if numbers.lead is None else [numbers.lead]
    shown = [*lead, *(group[0] for group in numbers.groups() if group[0] not in lead)]
    told = []
    for name, model in numbers.results["models"].items():
        budgets = sorted(map(int, model["budgets"]))
        lines = []
        for k in dict.fromkeys([*budgets[:1], *budgets[-1:]]):
            values = [(column, numbers.value(column, name, k)) for column in shown]
            said = ", ".join(f"{c.short} {c.text(v, unit=True)}" for c, v in values if v is not None)
            if said:
                where = "its only length" if len(budgets) == 1 else "the most" if k == budgets[-1] else "the fewest"
                lines.append(f"{tokens(k)} ({where}): {said}")
        kept, against = _kept(numbers, name, shown), _against(numbers, verdicts, name)
        told.append((name, [*_codec_of(numbers, name), *kept[:1], *lines, *kept[1:], *against]))
    return [(name, lines) for name, lines in told if lines]


def clients(results: Mapping[str, Any], name: str) -> list[str]:
    """The models here whose codec a model is."""
    return [other for other, model in results["models"].items() if model.get("codec_is") == name]


def _codec_of(numbers: Numbers, name: str) -> list[str]:
    others = clients(numbers.results, name)
    return [f"the codec of {listed(others)}, which it bounds: no competitor of theirs"] if others else []


def judge_of(numbers: Numbers) -> str:
    """The judge of the shares in the strengths; empty where it needs no name."""
    return next((str(column.measure.get("by") or "") for group in numbers.groups() for column in group), "")


def _kept(numbers: Numbers, name: str, shown: Sequence[Column]) -> list[str]:
    """Sentences on what the fewest tokens keep as the originals show it, and what comes with more of them. Columns that
    are `shown` anyhow are told where there is a way to tell."""
    several = (group for group in numbers.groups() if len([c for c in group if numbers.original(c) is not None]) > 1)
    group, own = next(several, []), sorted(map(int, numbers.results["models"][name]["budgets"]))
    found = [(c, numbers.original(c), numbers.value(c, name, own[0])) for c in group]
    known = [(c, real, value) for c, real, value in found if real is not None and value is not None]
    if not known:
        return []
    there = [each for each in known if each[1] - each[2] <= NEAR]
    told = []
    if there:
        names, verb = common([c.short for c, _, _ in there])
        kept = _range(group[0], [value for _, _, value in there])
        whole = _range(group[0], [real for _, real, _ in there])
        what = f"{listed(names)} {verb}".strip()
        told.append(f"at {tokens(own[0])} {what}: {kept} of the pictures, and {whole} of the originals")
    counts, missed = spread(own, MOST), [each for each in known if each not in there]
    for column, real, _ in missed if len(own) > 1 else []:
        values = [column.text(numbers.value(column, name, k)) for k in counts]
        chance = "" if column.chance is None else f", by chance {column.text(column.chance)}"
        at = f"{', '.join(map(str, counts[:-1]))} and {tokens(counts[-1])}"
        told.append(f"{column.short} at {at}: {', '.join(values)} % (originals {column.text(real)}{chance})")
    rest = [each for each in missed if each[0] not in shown] if len(own) == 1 else []
    short = [f"{c.short} {c.text(value)} % (originals {c.text(real)})" for c, real, value in rest]
    return [*told, *([", ".join(short)] if short else [])]


def _range(column: Column, values: Sequence[float]) -> str:
    low, high = column.text(min(values)), column.text(max(values))
    return f"{low} %" if low == high else f"{low} to {high} %"


def common(labels: Sequence[str]) -> tuple[list[str], str]:
    """Labels without the words that all end with, in lower case where there are such, and these words."""
    words = [label.lower().split() for label in labels]
    least = min(map(len, words)) - 1
    same = next((n for n in range(least, 0, -1) if len({tuple(each[-n:]) for each in words}) == 1), 0)
    if not same:
        return list(labels), ""
    return [" ".join(each[: len(each) - same]) for each in words], " ".join(words[0][len(words[0]) - same :])


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def spread(values: Sequence[int], most: int) -> list[int]:
    """Thin values to at most `most`, evenly by rank, both ends kept."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def _against(numbers: Numbers, verdicts: Verdicts, name: str) -> list[str]:
    """A sentence for each model that this one is better than by the leading number at equal expense, or as good as."""
    column, told = numbers.lead, []
    if column is None or column not in verdicts.columns:
        return []
    place = list(verdicts.columns).index(column)
    for row in verdicts.rows:
        cell = row.cells[place]
        if cell is None or name not in (row.first, row.second):
            continue
        other = row.second if row.first == name else row.first
        if cell.verdict == "not distinguishable":
            ends = f"{column.signed(cell.low)} to {column.signed(cell.high)} {column.unit}".strip()
            told.append(f"at {row.at} not told apart from {other} by {column.label} (95 % interval {ends})")
        elif (cell.verdict == "better") == (row.first == name):
            low, high = sorted((abs(cell.low), abs(cell.high)))
            by = f"{column.text(abs(cell.difference), unit=True)} of {column.label}"
            told.append(
                f"at {row.at} better than {other} by {by} (95 % interval {column.text(low)} to {column.text(high)})"
            )
    return told


def _directed(numbers: Numbers) -> list[Column]:
    return [column for column in numbers.columns if column.directed]


def _meetings(models: Mapping[str, Any], first: str, second: str) -> Iterator[tuple[Lane, Lane, str]]:
    ours, theirs = models[first]["budgets"], models[second]["budgets"]
    for k in ours:
        if k in theirs:
            yield (first, int(k)), (second, int(k)), "tokens"
    for k, mine in ours.items():
        for other, entry in theirs.items():
            if k != other and k not in theirs and other not in ours and same_bits(mine["bits"], entry["bits"]):
                yield (first, int(k)), (second, int(other)), "bits"


def same_bits(a: float | None, b: float | None) -> bool:
    """Whether two numbers of bits count as equal; those of continuous tokens do not."""
    return a is not None and b is not None and abs(a - b) <= SAME_BITS * max(a, b)


def _row(numbers: Numbers, first: Lane, second: Lane, equal: str) -> Row:
    models = numbers.results["models"]
    bits = models[first[0]]["budgets"][str(first[1])]["bits"], models[second[0]]["budgets"][str(second[1])]["bits"]
    if equal == "bits":
        at, expense = f"{shown_bits(bits[0])} bits ({first[1]} and {second[1]} tokens)", bits[0]
    elif same_bits(*bits):
        at, expense = f"{tokens(first[1])} ({shown_bits(bits[0])} bits an image)", first[1]
    else:
        told = " and ".join("continuous" if b is None else f"{shown_bits(b)} bits" for b in bits)
        at, expense = f"{tokens(first[1])} ({told})", first[1]
    cells = [numbers.compare(column, first, second) for column in _directed(numbers)]
    return Row((first, second), bits, at, equal, float(expense), cells)


def tokens(count: int) -> str:
    """A number of tokens as text."""
    return f"{count:,} token" + ("" if count == 1 else "s")
