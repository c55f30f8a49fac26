"""Differences of two results by cause, and whether their numbers compare. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from flexframe.bench.causes import CAUSES, OTHER
from flexframe_registry import UnknownName, catalogue
from flexframe_registry.config import is_place
from flexframe_registry.kinds import Cause, MetricConfig

Leaf = str | int | float | bool | None
ABSENT = "(not said)"
Half = Literal["measure", "use", "model"]
ROUNDING = 1e-5
"""By so much of its value a float32 number may differ where nothing does but the order of sums."""


@dataclass(frozen=True)
class Difference:
    """One cause, in which two results differ."""

    cause: Cause
    half: Half
    """The thing that it is a setting of: measuring, using the model, or the model itself."""
    details: Sequence[tuple[str, str, str]]
    """Name of the setting, what the first says, what the second says."""

    @property
    def forbids(self) -> bool:
        """True where numbers do not compare because of it."""
        return self.half == "measure" and self.cause.moves == "numbers"


@dataclass(frozen=True)
class Pair:
    """A number in both results."""

    measure: str
    models: tuple[str, str]
    budget: int
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    differences: Sequence[Difference]

    @property
    def comparable(self) -> bool:
        """True where they were measured alike: what is between them is then the models', and how they are used."""
        both = self.first["value"] is not None and self.second["value"] is not None
        return both and not any(difference.forbids for difference in self.differences)


@dataclass(frozen=True)
class Explanation:
    """The numbers that two results share, and the differences between them."""

    pairs: Sequence[Pair]
    notes: Sequence[str]

    @property
    def differences(self) -> list[tuple[Difference, list[str]]]:
        """Each difference once, with the measures that it concerns; those that forbid comparing come first."""
        concerned: dict[tuple[str, tuple[tuple[str, str, str], ...]], tuple[Difference, list[str]]] = {}
        for pair in self.pairs:
            for difference in pair.differences:
                key = difference.cause.name, tuple(difference.details)
                names = concerned.setdefault(key, (difference, []))[1]
                if pair.measure not in names:
                    names.append(pair.measure)
        order = sorted(concerned.values(), key=lambda item: (not item[0].forbids, item[0].cause.moves == "digits"))
        return [(difference, names) for difference, names in order]

    @property
    def unexplained(self) -> list[Pair]:
        """Numbers that differ where nothing does that is known to move them."""
        return [pair for pair, apart in self._alike() if apart > ROUNDING]

    @property
    def rounded(self) -> list[float]:
        """The share of its value by which each number differs that differs by rounding alone."""
        return [apart for _, apart in self._alike() if 0 < apart <= ROUNDING]

    def _alike(self) -> Iterator[tuple[Pair, float]]:
        """Numbers of which everything known is equal, and by which share of their value they differ."""
        for pair in self.pairs:
            a, b = pair.first["value"], pair.second["value"]
            if not pair.differences and pair.comparable and a != b:
                yield pair, abs(a - b) / max(abs(a), abs(b))


def explain(first: Mapping[str, Any], second: Mapping[str, Any]) -> Explanation:
    """Compare the content of two results.json."""
    notes: list[str] = []
    couples = _couples(first, second, notes)
    unsaid = first.get("schema") != second.get("schema")
    silent: set[str] = set()
    pairs = []
    for a, b in couples:
        budgets = [k for k in first["models"][a]["budgets"] if k in second["models"][b]["budgets"]]
        if not budgets:
            notes.append(f"{a} and {b} were measured at no token count in common")
        for k in budgets:
            numbers = [r["models"][name]["budgets"][k]["metrics"] for r, name in ((first, a), (second, b))]
            for measure in [name for name in numbers[0] if name in numbers[1]]:
                one, other = numbers[0][measure], numbers[1][measure]
                records = _record(first, a, one), _record(second, b, other)
                differences = _differences(records[0], records[1], silent if unsaid else None)
                pairs.append(Pair(measure, (a, b), int(k), one, other, differences))
    if silent:
        schemas = f"schema {first.get('schema')} and {second.get('schema')}"
        notes.append(f"the files are of {schemas}; one does not say: {', '.join(sorted(silent))}")
    for names, whose in ((set(first["measures"]) - set(second["measures"]), "first"),
                         (set(second["measures"]) - set(first["measures"]), "second")):  # fmt: skip
        if names:
            notes.append(f"only the {whose} has: {', '.join(sorted(names))}")
    return Explanation(pairs, notes)


def alike(first: Mapping[str, Any], second: Mapping[str, Any], one_form: bool = True) -> bool:
    """Say whether numbers of two protocols' `measure` halves compare: nothing is between them but last digits.

    Args:
        one_form: both are of one schema; else what one of them does not say is between them no more.
    """
    one, other = ({"measure": each, "use": {}, "model": {}} for each in (first, second))
    return not any(difference.forbids for difference in _differences(one, other, None if one_form else set()))


def _couples(first: Mapping[str, Any], second: Mapping[str, Any], notes: list[str]) -> list[tuple[str, str]]:
    """Models of one name; or the only one of each, whatever they are called."""
    common = [(name, name) for name in first["models"] if name in second["models"]]
    if common:
        return common
    if len(first["models"]) == len(second["models"]) == 1:
        return [(next(iter(first["models"])), next(iter(second["models"])))]
    names = f"{', '.join(first['models'])} and {', '.join(second['models'])}"
    notes.append(f"no model stands in both ({names}): the first of each is compared")
    return [(next(iter(first["models"])), next(iter(second["models"])))]


def _record(results: Mapping[str, Any], name: str, number: Mapping[str, Any]) -> dict[str, Any]:
    """All that a number rests on. One that could not be measured has what all numbers of its file have in common."""
    model = results["models"][name]
    about = {key: model.get(key) for key in ("fingerprint", "config", "trained")}
    record = results["protocols"].get(number.get("protocol", ""), {"measure": results["protocol"]})
    return {"measure": record["measure"], "use": record.get("use", {}), "model": about}


def _differences(first: Mapping[str, Any], second: Mapping[str, Any], silent: set[str] | None) -> list[Difference]:
    apart: dict[str, tuple[Leaf, Leaf]] = {}
    one, other = ({**_unsaid(each), **dict(_leaves(each))} for each in (first, second))
    whole = [half for half in ("use",) if bool(first[half]) != bool(second[half])]  # one of them was not measured
    for path in [*one, *(path for path in other if path not in one)]:
        half = path.partition(".")[0]
        a, b = one.get(path, ABSENT), other.get(path, ABSENT)
        # a setting that is none is as one that did not exist yet
        if a == b or {a, b} == {None, ABSENT} or half in whole:
            continue
        if whole and (path not in one or path not in other):
            continue
        if silent is not None and half == "measure" and ABSENT in (a, b) and ".providers." not in path:
            silent.add(path.removeprefix("measure.").partition(".")[0])
            continue
        apart[path] = a, b
    causes = [*_metrics_own(first), *_metrics_own(second), *CAUSES]
    grouped: dict[tuple[str, Half], tuple[Cause, list[tuple[str, str, str]]]] = {}
    for path, (a, b) in apart.items():
        # a distribution that only one of them names has no version to compare
        known = path.replace(".providers.", ".provided.") if ABSENT in (a, b) else path
        cause = next((c for c in causes if any(fnmatchcase(known, p) for p in c.paths)), OTHER)
        half, name = _half(path)
        if cause.moves != "nothing":
            grouped.setdefault((cause.name, half), (cause, []))[1].append((name, _told(a), _told(b)))
    names = {name for name, _ in grouped}
    return [
        Difference(cause, half, details)
        for (_, half), (cause, details) in grouped.items()
        if not names & set(cause.follows)
    ]


def _half(path: str) -> tuple[Half, str]:
    """The half of a record that a path leads into, and its name there."""
    first, _, name = path.partition(".")
    return ("measure" if first == "measure" else "use" if first == "use" else "model"), name


def _metrics_own(record: Mapping[str, Any]) -> list[Cause]:
    """The causes that a number's metric names, with their patterns as in a record; none of a metric that is not
    installed."""
    config = _metric(record)
    if config is None:
        return []  # told as settings of the metric
    places = tuple(f"metric.{name}" for name, field in config.model_fields.items() if is_place(field))
    common = {cause.name: cause for cause in CAUSES}
    own = [Cause("where a file lies", places, "none: its content is hashed", moves="nothing"), *config.causes]
    worded = [cause if cause.size else replace(common[cause.name], paths=cause.paths) for cause in own]
    return [replace(cause, paths=tuple(f"measure.{path}" for path in cause.paths)) for cause in worded]


def _metric(record: Mapping[str, Any]) -> type[MetricConfig] | None:
    """The config of a number's metric; None of a number that was not measured, is of another form, or whose plugin is
    not here."""
    try:
        config = catalogue().get("metric", record["measure"]["metric"]["type"]).config
    except (KeyError, TypeError, UnknownName):
        return None
    assert issubclass(config, MetricConfig)
    return config


def _unsaid(record: Mapping[str, Any]) -> dict[str, Leaf]:
    """Name what an older number's metric was, where its record does not say it."""
    config = _metric(record)
    return {} if config is None else {f"measure.{path}": value for path, value in config.unsaid.items()}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Leaf]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}".lstrip("."))
    elif path.endswith(".providers") and isinstance(value, list):
        for provider in value:
            name, _, version = provider.rpartition(" ")
            yield f"{path}.{name}", version
    elif isinstance(value, list):
        yield path, json.dumps(value, ensure_ascii=False)
    else:
        yield path, value


def _told(value: Leaf) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    hashed = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if hashed else text if len(text) <= 60 else text[:57] + "..."
