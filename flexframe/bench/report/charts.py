"""Line charts as plain numbers for an inline SVG: a value over tokens or bits, both on a binary logarithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 24, 14, 40


@dataclass(frozen=True)
class Point:
    """A mark on a curve, in the coordinates of the chart."""

    x: float
    y: float
    tokens: int
    tip: str
    low: float | None = None
    """Ends of the interval, as heights in the chart."""
    high: float | None = None
    most: float | None = None
    """The highest that so many images could come to, as a height."""


@dataclass(frozen=True)
class Line:
    """One model's curve; a model with one token count is a single marker."""

    model: int
    points: Sequence[Point]

    @property
    def path(self) -> str:
        """The curve as data of an SVG path."""
        return "M" + "L".join(f"{p.x:.1f} {p.y:.1f}" for p in self.points)


@dataclass(frozen=True)
class Level:
    """A value across the whole chart: of a model that has no place on the axis, as one of continuous tokens among bits;
    or, without a model, of the originals or of guessing."""

    model: int | None
    y: float
    text: str
    tip: str
    place: tuple[float, float, str] | None = None
    """Where its text stands, and whether this is its `start` or `end`; None where there is no room for it."""
    value: str = ""
    of: str = ""
    """The model's name, or the text where it is of none."""
    tokens: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart in the coordinates of its view box."""

    axis: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    absent: Sequence[str]
    """Models that have no place on this axis, and values that stand across it."""
    levels: Sequence[Level]
    moved: Sequence[str]
    """Markers that stand right of their place, which another one's has taken: whose, and at how many tokens."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def unlettered(self) -> list[tuple[int | None, str]]:
        """The levels whose texts found no room in the chart, from the highest: a model's number, and what they are."""
        told: dict[tuple[int | None, str], list[str]] = {}
        for level in sorted((level for level in self.levels if level.place is None), key=lambda level: level.y):
            at = "" if level.tokens is None else f" at {level.tokens:,}"
            told.setdefault((level.model, level.of), []).append(level.value + at)
        return [
            (model, f"{of} {values[0]}" if model is None else f"{of}, of continuous tokens: {', '.join(values)}")
            for (model, of), values in told.items()
        ]


def draw(
    axis: str,
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    measure: Mapping[str, Any],
    marks: Mapping[str, float | None] | None = None,
) -> Chart | None:
    """A chart of `series`: for each model its points with `tokens`, `bits`, `value`, `interval`, `tip` and `most`.

    None without a point. `marks` are values across it, by what they are; those far below all points are left out.
    """
    known = {text: value for text, value in (marks or {}).items() if value is not None}
    placed = {name: [p for p in points if p[axis] is not None] for name, points in series.items()}
    everything = [p for points in placed.values() for p in points]
    if not everything:
        return None
    xs, ys = [float(p[axis]) for p in everything], [float(p["value"]) for p in everything]
    across = [(i, p) for i, points in enumerate(series.values()) for p in points if p[axis] is None]
    ys += [float(p["value"]) for _, p in across]
    ys += [end for p in everything if p["interval"] for end in (p["interval"].low, p["interval"].high)]
    ys += [float(p["most"]) for p in everything if p.get("most") is not None]
    span = max(ys) - min(ys)
    shown = {text: value for text, value in known.items() if value >= min(ys) - span / 4}
    ys += shown.values()
    low, high = math.log2(min(xs)) - 0.25, math.log2(max(xs)) + 0.25
    ticks, bottom, top = y_range(min(ys), max(ys), measure)

    def x(value: float) -> float:
        return LEFT + (math.log2(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (top - value) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    lines, moved = list[Line](), list[str]()
    for i, (name, ps) in enumerate(placed.items()):
        rising = sorted(ps, key=lambda p: p[axis])
        points = [
            Point(
                x(float(p[axis])), y(float(p["value"])), p["tokens"], p["tip"],
                low=y(p["interval"].low) if p["interval"] else None,
                high=y(p["interval"].high) if p["interval"] else None,
                most=None if p.get("most") is None else y(float(p["most"])),
            )
            for p in rising
        ]  # fmt: skip
        if points:
            beside = [aside(point, lines) for point in points]
            moved += [f"{name} at {p.tokens:,} tokens" for p, q in zip(beside, points, strict=True) if p.x != q.x]
            lines.append(Line(i, beside))
    absent = [name for name, points in series.items() if points and not placed[name]]
    labels = x_labels(xs)
    x_ticks = [(x(v), f"{v:,g}") for v in labels]
    levels = [
        Level(
            i,
            y(float(p["value"])),
            f"{list(series)[i]}: {p['tokens']:,} continuous token{'' if p['tokens'] == 1 else 's'}",
            p["tip"],
            value=f"{p['value']:,.{measure['digits']}f}",
            of=list(series)[i],
            tokens=p["tokens"],
        )
        for i, p in across
    ]
    for text, value in shown.items():
        written = f"{value:,.{measure['digits']}f}"
        levels.append(Level(None, y(value), text, f"{text}: {written}", value=written, of=text))
    y_ticks = [(y(v), text) for v, text in ticks]
    return Chart(axis, lines, x_ticks, y_ticks, absent, lettered(levels, lines), moved)


LETTER, ROOM = 6.6, 5
"""Width of a letter of a level's text, and what a marker takes on each side, in units of the chart."""


def lettered(levels: Sequence[Level], lines: Sequence[Line]) -> list[Level]:
    """The levels with their texts where no marker, curve or other text stands; without one where there is no room."""
    taken = [(x - ROOM, y - ROOM, x + ROOM, y + ROOM) for line in lines for x, y in _inked(line)]
    done: list[Level] = []
    for level in levels:
        width, free = LETTER * len(level.text), None
        others = [other.y for other in levels if other is not level]
        for x, anchor in ((float(WIDTH - RIGHT), "end"), (LEFT + 4.0, "start")):
            for y in (level.y - 6, level.y + 15):
                left = x - width if anchor == "end" else x
                box = (left, y - 11, left + width, y + 3)
                crossed = any(box[1] - 2 < other < box[3] + 2 for other in others)
                if free is None and not crossed and box[3] < HEIGHT - BOTTOM and not any(_meet(box, t) for t in taken):
                    free = x, y, anchor
                    taken.append(box)
        done.append(replace(level, place=free))
    return done


def _inked(line: Line) -> list[tuple[float, float]]:
    """Spots of a line: its markers, the ends and middles of their intervals, and its curve in small steps."""
    spots = [(p.x, y) for p in line.points for y in (p.y, p.low, p.high, p.most) if y is not None]
    spots += [(p.x, (p.y + end) / 2) for p in line.points for end in (p.low, p.high) if end is not None]
    for a, b in pairwise(line.points):
        spots += [(a.x + (b.x - a.x) * i / 12, a.y + (b.y - a.y) * i / 12) for i in range(1, 12)]
    return spots


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def aside(point: Point, lines: Sequence[Line]) -> Point:
    """The point, moved right of markers that it would hide."""
    taken = [p for line in lines for p in line.points]
    while any(abs(p.x - point.x) < 9 and abs(p.y - point.y) < 9 for p in taken):
        point = replace(point, x=point.x + 11)
    return point


def x_labels(values: Sequence[float]) -> list[float]:
    """The values themselves where they are few; powers of two otherwise."""
    own = sorted(set(values))
    far = all(b / a > 1.3 for a, b in pairwise(own))
    if len(own) <= 10 and far and all(v == round(v) for v in own):
        return own
    first, last = math.ceil(math.log2(own[0]) - 0.2), math.floor(math.log2(own[-1]) + 0.2)
    step = max(1, math.ceil((last - first + 1) / 10))
    return [2.0**i for i in range(first, last + 1, step)]


def y_range(low: float, high: float, measure: Mapping[str, Any]) -> tuple[list[tuple[float, str]], float, float]:
    """Round ticks with their texts, and the range of the axis, which holds all values with some air."""
    air = 0.08 * (high - low) or max(abs(high) * 0.05, 10.0 ** -measure["digits"])
    bottom, top = low - air, high + air
    if low >= 0:
        bottom = max(bottom, 0.0)
    if measure["unit"] == "%":
        top = min(top, 101.5)
    step = max(s for s in _steps(top - bottom) if math.floor(top / s + 1e-9) - math.ceil(bottom / s - 1e-9) >= 2)
    first, last = math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9)
    values = [i * step for i in range(first, last + 1)]
    digits = next(d for d in range(20) if abs(round(step, d) - step) < 1e-6 * step)
    return [(v, f"{v:,.{digits}f}") for v in values], bottom, top


def _steps(span: float) -> list[float]:
    """Round steps, some of which give three ticks or more over a span."""
    power = 10.0 ** math.floor(math.log10(span))
    return [m * power for m in (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5)]


def use(ranked: Sequence[Sequence[Sequence[int]]]) -> str:
    """A path of how often codes are used: frequency against rank, both on logarithms, over all codebooks together.

    Args:
        ranked: for each codebook (times, codes) with the most frequent first; in a box of 100 x 40, the origin at the
            top left. The right edge is the number of codes, and few images cannot bring a line there.
    """
    counts: dict[int, int] = {}
    for book in ranked:
        for times, codes in book:
            counts[times] = counts.get(times, 0) + codes
    size, most = sum(counts.values()), max(counts, default=0)
    if most < 1:
        return ""
    steps, rank = [], 0
    for times in sorted((t for t in counts if t > 0), reverse=True):
        first, rank = rank + 1, rank + counts[times]
        y = 38 - 36 * (math.log(times + 1) / math.log(most + 1))
        steps.append(f"{_along(first, size):.2f} {y:.2f}L{_along(rank + 1, size):.2f} {y:.2f}")
    return "M" + "L".join(steps)


def bound(ranked: Sequence[Sequence[Sequence[int]]]) -> float | None:
    """The last place on its width where the line of `use` may end: a token uses one code. None at the right edge."""
    size = sum(codes for book in ranked for _, codes in book)
    most = sum(min(sum(n * times for times, n in book), sum(n for _, n in book)) for book in ranked)
    return None if most >= size else _along(most + 1, size)


def _along(rank: int, size: int) -> float:
    return 100 * math.log(rank) / math.log(size + 1)
