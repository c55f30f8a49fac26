"""A run's numbers in columns of one protocol each, with their intervals and comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexframe.bench import intervals
from flexframe.bench.intervals import Comparison, Interval
from flexframe.bench.table import repeated, shown

Lane = tuple[str, int]
"""A model, and a token count."""


@dataclass(frozen=True)
class Column:
    """Numbers that may stand in one column: one measure, measured under one protocol."""

    name: str
    measure: Mapping[str, Any]
    protocol: str
    """Id of what is measured, and how; the part of a number's protocol before the dot."""
    alone: bool
    """True where all numbers of the measure are of this protocol."""

    @property
    def label(self) -> str:
        """The measure's label, with the protocol's id where there are several."""
        return str(self.measure["label"]) + ("" if self.alone else f" ({self.protocol})")

    @property
    def short(self) -> str:
        """The label without who measured."""
        return self.label.removesuffix(f", {self.measure.get('by')}")

    @property
    def chance(self) -> float | None:
        """The number that guessing comes to, where there is one."""
        found = self.measure.get("chance")
        return None if found is None else float(found)

    @property
    def unit(self) -> str:
        """The measure's unit; empty where it has none."""
        return str(self.measure["unit"])

    @property
    def directed(self) -> bool:
        """True where one end is the better one."""
        return self.measure["better"] is not None

    def text(self, value: float | None, unit: bool = False) -> str:
        """A value with the measure's digits, and its unit on request; a dash for None."""
        written = shown(value, self.measure)
        return f"{written} {self.unit}" if unit and self.unit and value is not None else written

    def signed(self, value: float) -> str:
        """A difference with its sign and the measure's digits."""
        return f"{value:+,.{self.measure['digits']}f}".replace("-", "−")


class Numbers:
    """The numbers of a result, by column, model and token count. One of another protocol is in no column of these."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results
        self.repeated = repeated(results)
        protocols: dict[str, dict[str, None]] = {}
        for model in results["models"].values():
            for entry in model["budgets"].values():
                for name, number in entry["metrics"].items():
                    if number["value"] is not None:
                        protocols.setdefault(name, {})[_measured(number)] = None
        self.columns = [
            Column(name, measure, protocol, len(protocols[name]) == 1)
            for name, measure in results["measures"].items()
            if name not in self.repeated
            for protocol in protocols.get(name, {})
        ]
        self._drawn: dict[tuple[str, str], dict[Lane, tuple[np.ndarray, np.ndarray]]] = {}
        for column in self.columns:
            self._drawn[column.name, column.protocol] = self._resample(column)

    @property
    def lead(self) -> Column | None:
        """The first column of which some number is better: the page's headline."""
        return next((column for column in self.columns if column.directed), None)

    def number(self, column: Column, model: str, budget: int) -> Mapping[str, Any] | None:
        """The entry of a number, or None where there is none in this column."""
        entry = self.results["models"][model]["budgets"].get(str(budget), {"metrics": {}})
        number = entry["metrics"].get(column.name)
        if number is None or number["value"] is None or _measured(number) != column.protocol:
            return None
        return dict(number)

    def value(self, column: Column, model: str, budget: int) -> float | None:
        """The value of a number, or None where there is none in this column."""
        number = self.number(column, model, budget)
        return None if number is None else float(number["value"])

    def original(self, column: Column) -> float | None:
        """The number of the originals themselves, where one is told."""
        lanes = ((model, int(k)) for model, entry in self.results["models"].items() for k in entry["budgets"])
        found = ((self.number(column, *lane) or {}).get("original") for lane in lanes)
        return next((float(value) for value in found if value is not None), None)

    def groups(self) -> list[list[Column]]:
        """Columns of shares by metric. Where two judge the same, those of the first that does."""
        by_metric: dict[str, list[Column]] = {}
        for column in self.columns:
            if column.directed and column.unit == "%":
                by_metric.setdefault(column.protocol, []).append(column)
        seen: set[str] = set()
        told = []
        for columns in by_metric.values():
            told += [columns] if not seen & {column.short for column in columns} else []
            seen |= {column.short for column in columns}
        return told

    def images(self, column: Column, model: str, budget: int) -> Sequence[float]:
        """The value of every image, or nothing where the number is not their mean."""
        value = self.value(column, model, budget)
        each = self.results["per_image"].get(model, {}).get(str(budget), {}).get(column.name)
        if value is None or not each or abs(float(np.mean(each)) - value) > 1e-6 * max(1.0, abs(value)):
            return []
        return list(each)

    def interval(self, column: Column, model: str, budget: int) -> Interval | None:
        """The 95 % interval of a number, or None where neither images nor subsets tell one."""
        drawn = self._drawn[column.name, column.protocol].get((model, budget))
        if drawn is not None:
            return intervals.ends(drawn[1]) if np.ptp(drawn[0]) else None  # equal values cannot tell a spread
        subsets = self._subsets(column, model, budget)
        value = self.value(column, model, budget)
        if value is None or len(subsets) < intervals.FEWEST_SUBSETS:
            return None
        return intervals.subset_interval(value, subsets)

    def compare(self, column: Column, first: Lane, second: Lane) -> Comparison | None:
        """The first less the second; None where there is no better, no interval, or not both numbers."""
        drawn, better = self._drawn[column.name, column.protocol], column.measure["better"]
        if better is None:
            return None
        if first in drawn and second in drawn:
            return intervals.compare(drawn[first][0], drawn[second][0], drawn[first][1], drawn[second][1], better)
        a, b = self._subsets(column, *first), self._subsets(column, *second)
        values = self.value(column, *first), self.value(column, *second)
        if values[0] is None or values[1] is None or len(a) < intervals.FEWEST_SUBSETS or len(a) != len(b):
            return None
        return intervals.compare_subsets(values[0], values[1], a, b, better)

    def by_subsets(self) -> bool:
        """True where some number has values over subsets."""
        return any(number.get("subsets") for number in self._all())

    def by_images(self) -> bool:
        """True where some number is a mean over images."""
        return any(self._drawn.values())

    def _subsets(self, column: Column, model: str, budget: int) -> Sequence[float]:
        number = self.number(column, model, budget)
        return [] if number is None else list((number.get("subsets") or {}).get("values", []))

    def _all(self) -> list[Mapping[str, Any]]:
        entries = (b for m in self.results["models"].values() for b in m["budgets"].values())
        return [number for entry in entries for number in entry["metrics"].values()]

    def _resample(self, column: Column) -> dict[Lane, tuple[np.ndarray, np.ndarray]]:
        """Values of the images and means of resamples, by lane: the same images in all lanes."""
        lanes: dict[Lane, Sequence[float]] = {}
        for model, entry in self.results["models"].items():
            for k in entry["budgets"]:
                each = self.images(column, model, int(k))
                if len(each) >= intervals.FEWEST and np.isfinite(each).all():
                    lanes[model, int(k)] = each
        if not column.directed or not lanes or len({len(each) for each in lanes.values()}) > 1:
            return {}
        values = np.array(list(lanes.values())).T
        drawn = intervals.resampled_means(values)
        return {lane: (values[:, i], drawn[:, i]) for i, lane in enumerate(lanes)}


def _measured(number: Mapping[str, Any]) -> str:
    return str(number.get("protocol", "")).split(".")[0]
