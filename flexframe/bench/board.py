"""Many results as one table: rows of all of them over the same images, and a column for what was measured alike.

Numbers share a column where `explain` finds nothing between their protocols but last digits. What papers published
stands in a table of its own. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flexframe.bench.explain import alike
from flexframe.bench.table import measured, repeated, shown, shown_bits
from flexframe_registry import ConfigError, ModelConfig, TokenizerConfig, UnknownName, cards
from flexframe_registry.suites import SUITES

FILE = "results.json"
PUBLISHED = "published"
"""How the origin of a card's number begins that others measured."""
Span = tuple[int | float, int | float]
NONE = "–"
REBUILT = "reconstruction of the suite's own images"
"""The task of results that do not say theirs, which are older than others."""


@dataclass(frozen=True)
class Wanted:
    """Choice of what of the results is shown; all that is not said is."""

    models: Sequence[str] = ()
    """Patterns of names."""
    suites: Sequence[str] = ()
    protocols: Sequence[str] = ()
    """Beginnings of the ids of what is measured, and how."""
    measures: Sequence[str] = ()
    tokens: Span | None = None
    bits: Span | None = None
    parameters: Span | None = None
    sort: str = "tokens"
    """`tokens`, `bits`, `parameters`, `model`, or the name of a measure, the best first."""

    def row(self, name: str, tokens: int, bits: float | None, parameters: int | None) -> bool:
        """Say whether such a row is wanted."""
        named = not self.models or any(fnmatchcase(name, pattern) for pattern in self.models)
        pairs = (self.tokens, tokens), (self.bits, bits), (self.parameters, parameters)
        return named and all(
            span is None or (value is not None and span[0] <= value <= span[1]) for span, value in pairs
        )


WHOLE = Wanted()


@dataclass
class Column:
    """Numbers that were measured alike."""

    measure: Mapping[str, Any]
    name: str
    record: Mapping[str, Any]
    schema: int
    """Of the file of its record."""
    ids: list[str] = field(default_factory=list)
    """Ids of the protocols, which differ in last digits at most."""
    alone: bool = True
    """True where all numbers of the measure are in it."""

    @property
    def label(self) -> str:
        """The measure, its unit, and the protocol where there are several."""
        unit = f", {self.measure['unit']}" if self.measure.get("unit") else ""
        return f"{self.measure['label']}{unit}" + ("" if self.alone else f" [{self.ids[0]}]")


@dataclass
class Row:
    """One model at one token count, used in one way."""

    model: str
    tokens: int
    bits: float | None
    parameters: int | None
    fingerprint: str
    use: str
    origin: str
    """The file."""
    numbers: dict[int, float] = field(default_factory=dict)
    """By the column's place."""
    spans: dict[int, float] = field(default_factory=dict)
    """Of numbers that are means over seeds: half the width of their intervals."""
    recipe: str = ""
    seed: int | None = None
    """Of its training, where its file says them."""


@dataclass
class Board:
    """Table of all that was measured over the same images."""

    key: tuple[Any, ...]
    names: list[str]
    """The suites' names."""
    facts: Mapping[str, Any]
    """What their protocols have in common of the images."""
    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The suites, and how many images of which size."""
        height, width = self.facts["image_size"]
        named = ", ".join(dict.fromkeys(self.names))
        what = "samples beside " if str(self.facts.get("task", "")).startswith("samples") else ""
        return f"{named}: {what}{self.facts['count']:,} images, {height} x {width}"

    def texts(self, row: Row) -> list[str]:
        """A row's cells."""
        numbers = [shown(row.numbers.get(place), column.measure) for place, column in enumerate(self.columns)]
        for place, half in row.spans.items():
            numbers[place] += f" ± {shown(half, self.columns[place].measure)}"
        return [row.model, str(row.tokens or NONE), shown_bits(row.bits), millions(row.parameters), *numbers]

    @property
    def head(self) -> list[str]:
        """The columns' names."""
        return ["model", "tokens", "bits", "parameters, M", *(column.label for column in self.columns)]


@dataclass(frozen=True)
class Published:
    """A number that a card quotes."""

    model: str
    tokens: int | None
    bits: float | None
    measure: str
    value: float
    origin: str
    """Where it is from, and under which protocol as far as that is said."""
    image_size: tuple[int, int]


def find(places: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Results in files and folders, in depth, with the file of each; a file in a folder that is of another form is
    passed over.

    Raises:
        ConfigError: a place that is not there, a named file of another form, or a folder without results.
    """
    from flexframe.bench.results import read

    for place in places:
        files = sorted(place.rglob(FILE)) if place.is_dir() else [place]
        found = 0
        for file in files:
            try:
                results = read(file)
            except ConfigError:
                if not place.is_dir():
                    raise
                continue
            found += 1
            yield file, results
        if not found:
            raise ConfigError.at(str(place), f"holds no {FILE} that `flexframe bench` wrote")


def boards(
    found: Iterable[tuple[Path, Mapping[str, Any]]], wanted: Wanted = Wanted(), root: Path = Path()
) -> list[Board]:
    """Results, brought together by the images that they are of.

    Args:
        root: the folder that files are named from; not given: the one where the command runs.

    Raises:
        ConfigError: nothing is left of them, or they are sorted by a measure that none has.
    """
    made: dict[tuple[Any, ...], Board] = {}
    for file, results in found:
        facts = results["protocol"]
        name = _suite(file, results)
        if wanted.suites and not {name, name.partition("@")[0]} & set(wanted.suites):
            continue
        size = tuple(facts.get("image_size", ()))
        key = (facts.get("task", REBUILT), facts.get("data_sha256"), facts.get("count"), size)
        board = made.setdefault(key, Board(key, [], facts))
        board.names.append(name)
        _take(board, results, wanted, _from(file, root or Path()))
    kept = [board for board in made.values() if board.rows]
    for board in kept:
        _finish(board, wanted)
    if not kept:
        raise ConfigError.at("", "no result is left of these; say less of what is wanted")
    return kept


def _suite(file: Path, results: Mapping[str, Any]) -> str:
    """The name of a suite that ships, with its version from the second on; of any other that of the results' folder,
    for a file's may be anything."""
    suite = results.get("suite", {})
    name, version = str(suite.get("name", "")).partition("@")[0], suite.get("version", 1)
    if not (SUITES / f"{name}.yaml").is_file():
        return file.absolute().parent.name
    return name if version == 1 else f"{name}@{version}"


def _from(file: Path, root: Path) -> str:
    file = file.absolute()
    return file.relative_to(root.absolute()).as_posix() if file.is_relative_to(root.absolute()) else file.as_posix()


def _take(board: Board, results: Mapping[str, Any], wanted: Wanted, origin: str) -> None:
    again = repeated(results)
    for name, model in results["models"].items():
        parameters = model.get("parameters") or {}
        total = parameters["total"] + parameters.get("codec", 0) if "total" in parameters else None
        for k, entry in model["budgets"].items():
            if not wanted.row(name, int(k), entry.get("bits"), total):
                continue
            there = {n: each for n, each in entry["metrics"].items() if each["value"] is not None and n not in again}
            keys = [each.get("protocol", "") for each in there.values()]
            use = keys[0].partition(".")[2] if keys else ""
            row = Row(name, int(k), entry.get("bits"), total, str(model.get("fingerprint", "")), use, origin)
            row.recipe, row.seed = recipe(model), ((model.get("trained") or {}).get("run") or {}).get("seed")
            for measure, number in there.items():
                place = _column(board, measure, results, number, wanted)
                if place is not None:
                    row.numbers[place] = float(number["value"])
            if row.numbers:
                _put(board, row)


def _column(
    board: Board, name: str, results: Mapping[str, Any], number: Mapping[str, Any], wanted: Wanted
) -> int | None:
    """The place of the column that a number belongs into, a new one if need be; None where it is not wanted."""
    key = measured(number)
    if wanted.measures and name not in wanted.measures:
        return None
    if wanted.protocols and not any(key.startswith(each) for each in wanted.protocols):
        return None
    record = results["protocols"].get(number.get("protocol", ""), {"measure": results["protocol"]})["measure"]
    schema = int(results.get("schema", 0))
    own = [(place, column) for place, column in enumerate(board.columns) if column.name == name]
    for place, column in own:
        if key in column.ids or alike(column.record, record, column.schema == schema):
            column.ids += [] if key in column.ids else [key]
            if schema > column.schema:
                column.measure, column.record, column.schema = results["measures"][name], record, schema
            return place
    board.columns.append(Column(results["measures"][name], name, record, schema, [key]))
    return len(board.columns) - 1


def recipe(model: Mapping[str, Any]) -> str:
    """Give a model's config and training but the seed; nothing where its file does not say how it was trained."""
    trained = model.get("trained") or {}
    run = trained.get("run")
    if not isinstance(run, Mapping) or "seed" not in run:
        return ""
    rest = {name: value for name, value in run.items() if name != "seed"}
    return json.dumps([model.get("config"), rest, trained.get("step")], sort_keys=True)


def _put(board: Board, row: Row) -> None:
    """Add a row, or to one of the same model and use what it lacks; a number that is there already stays."""
    for other in board.rows:
        same = (other.model, other.tokens, other.fingerprint, other.use) == (
            row.model, row.tokens, row.fingerprint, row.use,
        )  # fmt: skip
        if same:
            other.numbers = {**row.numbers, **other.numbers}
            return
    board.rows.append(row)


def _finish(board: Board, wanted: Wanted) -> None:
    """Sort the rows, and say which columns and models need more than a name."""
    for column in board.columns:
        column.alone = sum(other.name == column.name for other in board.columns) == 1
    kinds = {row.model: {(r.fingerprint, r.use) for r in board.rows if r.model == row.model and r.tokens == row.tokens}
             for row in board.rows}  # fmt: skip
    for row in board.rows:
        if len(kinds[row.model]) > 1:
            row.model = f"{row.model} ({row.fingerprint[:6]}, {row.use[:4]})"
    names = {"tokens", "bits", "parameters", "model"}
    if wanted.sort in names:
        board.rows.sort(key=lambda row: _rank(row, wanted.sort))
        return
    places = [place for place, column in enumerate(board.columns) if column.name == wanted.sort]
    if not places:
        known = ", ".join([*sorted(names), *dict.fromkeys(column.name for column in board.columns)])
        raise ConfigError.at("--sort", f"{board.title} has no {wanted.sort!r}; there are: {known}")
    up = board.columns[places[0]].measure["better"] == "higher"
    board.rows.sort(key=lambda row: (places[0] not in row.numbers, -row.numbers.get(places[0], 0) if up else
                                     row.numbers.get(places[0], 0)))  # fmt: skip


def _rank(row: Row, by: str) -> tuple[Any, ...]:
    infinite = float("inf")
    own = {
        "tokens": (row.tokens or infinite,),
        "bits": (infinite if row.bits is None else row.bits,),
        "parameters": (row.parameters or infinite,),
        "model": (),
    }
    return (*own[by], row.model, row.tokens)


def published(wanted: Wanted, sizes: Iterable[tuple[int, int]]) -> list[Published]:
    """The numbers that cards quote of others, of models whose images are of one of these sizes."""
    of_interest, made = set(sizes), list[Published]()
    for name in cards().names():
        try:
            card = cards().get(name)
            quoted = list(_quoted(card.file.metrics))
            size, most, each = _widths(card.described) if quoted else (None, None, None)
        except (ConfigError, UnknownName):
            continue  # a card of a plugin that is not here, or a broken one: `flexframe list` tells
        for measure, tokens, value, origin in quoted:
            count = most if tokens is None else tokens
            bits = None if each is None or count is None else each * count
            if size in of_interest and wanted.row(name, count or 0, bits, None):
                made.append(Published(name, count, bits, measure, value, origin, size))
    return made


def _quoted(metrics: Mapping[str, Any]) -> Iterator[tuple[str, int | None, float, str]]:
    """Measure, token count where it is said, number, and origin of what a card quotes: `rfid: {value, origin}`, or
    several numbers as `at_32_tokens: {rfid, gfid, origin}`."""
    for name, told in metrics.items():
        if not isinstance(told, Mapping) or not str(told.get("origin", "")).startswith(PUBLISHED):
            continue
        origin, at = str(told["origin"]).removeprefix(PUBLISHED).lstrip(": "), re.fullmatch(r"at_(\d+)_tokens", name)
        for measure, value in told.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield name if measure == "value" else measure, int(at[1]) if at else None, float(value), origin


def _widths(model: ModelConfig) -> tuple[tuple[int, int] | None, int | None, float | None]:
    """Image size, tokens where there is one count of them, and bits of one; of a prior those of its tokenizer, where
    it names a card."""
    if isinstance(model, TokenizerConfig):
        (height, width), counts = model.image_size, model.budgets
        return (height, width), counts[0] if len(counts) == 1 else None, model.bits_per_token
    name = model.codes_of
    if name is None or name not in cards().files:
        return None, None, None
    return _widths(cards().get(name).described)


def millions(count: int | None) -> str:
    """A number of parameters in millions."""
    return NONE if count is None else f"{count / 1e6:,.2f}"


def as_json(made: Sequence[Board], quoted: Sequence[Published]) -> str:
    """Content for programs: a number has its protocol beside it, and no number of a card is among the measured."""
    measured_ones = [
        {
            "suites": list(dict.fromkeys(board.names)),
            "images": {key: board.facts.get(key) for key in ("task", "data_sha256", "count", "image_size")},
            "columns": [
                {"measure": c.name, "label": c.measure["label"], "unit": c.measure.get("unit", ""),
                 "better": c.measure["better"], "protocols": c.ids}
                for c in board.columns
            ],
            "rows": [
                {"model": r.model, "tokens": r.tokens or None, "bits": r.bits, "parameters": r.parameters,
                 "fingerprint": r.fingerprint, "file": r.origin,
                 "numbers": [r.numbers.get(place) for place in range(len(board.columns))],
                 **({"over_seeds": [r.spans.get(place) for place in range(len(board.columns))]} if r.spans else {})}
                for r in board.rows
            ],
        }
        for board in made
    ]  # fmt: skip
    others = [
        {"model": p.model, "tokens": p.tokens, "bits": p.bits, "measure": p.measure, "value": p.value,
         "origin": p.origin, "image_size": list(p.image_size)}
        for p in quoted
    ]  # fmt: skip
    return json.dumps({"measured": measured_ones, "published": others}, indent=1, ensure_ascii=False) + "\n"
