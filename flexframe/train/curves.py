"""Curves of runs against each other, from their logs. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flexframe.files import replaced
from flexframe.train.alarms import ALARMS
from flexframe_registry import ConfigError
from flexframe_registry.errors import nearest

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")
STYLES: tuple[Literal["-", "--", "-.", ":"], ...] = ("-", "--", "-.", ":")
GREY = "#8a8a8a"
GRADIENTS = "grad_norm/"
PROBE = "probe/"
"""Names of what a probe tells begin so."""
NOT_SHOWN = ("step", "lr", "images_per_s", "data_wait", "skipped", "codes_dead", "codes_perplexity")
"""Numbers that are plotted only when they are asked for."""
LINEAR = ("codes_used", "codes_dead", "data_wait", "images_per_s", "skipped", "lr")
"""Numbers that may be 0, or are no losses: never on a logarithm unless all are."""
COLUMNS, WIDTH, HEIGHT = 3, 4.6, 3.1
"""Panels in a row; inches of a panel."""

Lines = Sequence[Mapping[str, Any]]


def names(runs: Mapping[str, Lines]) -> list[str]:
    """Names of the numbers that any of the runs has logged, in the order in which they appear."""
    known = {name: None for lines in runs.values() for line in lines for name, v in line.items() if _is_number(v)}
    return list(known)


def choose(runs: Mapping[str, Lines], wanted: Sequence[str]) -> list[list[str]]:
    """Panels, each with the metrics in it: those that are wanted, else losses, codes and gradient norms.

    A part of a name that ends in a slash means all that begin so (`grad_norm/`). The norms of a single run's parts
    share a panel; of several runs each part has its own.

    Raises:
        ConfigError: no run has logged a metric.
    """
    known = names(runs)
    if wanted:
        panels = []
        for name in wanted:
            chosen = [each for each in known if each == name or (name.endswith("/") and each.startswith(name))]
            if not chosen:
                text = f"no run has logged {name!r}.{nearest(name, known)} Logged: {', '.join(known) or 'nothing'}"
                raise ConfigError.at("--metric", text)
            panels += [chosen] if len(runs) == 1 else [[each] for each in chosen]
        return panels
    order = [n for n in known if n not in NOT_SHOWN and not n.startswith((GRADIENTS, PROBE)) and not _is_all(runs, n)]
    order.sort(key=lambda n: (n != "loss", n == "grad_norm", n == "codes_used"))
    parts = [n for n in known if n.startswith(GRADIENTS)]
    return [[n] for n in order] + ([parts] if parts and len(runs) == 1 else [[n] for n in parts])


def _is_all(runs: Mapping[str, Lines], name: str) -> bool:
    """True for a loss that is the only one, so that its curve is that of `loss`."""
    if name == "loss":
        return False
    return all(line.get(name) == line.get("loss") for lines in runs.values() for line in lines)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the `window` - 1 before it, of those that are finite; NaN where none is."""
    means = []
    for end in range(1, len(values) + 1):
        part = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        means.append(sum(part) / len(part) if part else math.nan)
    return means


def series(lines: Lines, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric in a log."""
    pairs = [(line["step"], float(line[name])) for line in lines if _is_number(line.get(name))]
    return [x for x, _ in pairs], [y for _, y in pairs]


def draw(
    runs: Mapping[str, Lines],
    out: Path,
    *,
    metrics: Sequence[str] = (),
    smooth: int = 1,
    log_y: bool = False,
    batches: Mapping[str, int] | None = None,
    expected: Mapping[str, Lines] | None = None,
) -> list[str]:
    """Write a picture (PNG, SVG or PDF, by its suffix) of each metric over the steps, a line a run.

    Args:
        runs: each run's log, by the name that the legend has.
        smooth: log lines that are averaged; what is not smoothed shows through.
        batches: each run's batch size, and each expected curve's: the curves then go over images seen.
        expected: curves to hold the runs against, by the name that the legend has: grey, dashed, and as they are given.

    Returns:
        the metrics drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = choose(runs, metrics)
    if not panels:
        raise ConfigError.at("", "the runs have logged nothing yet")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    named = [*runs, *(expected or {})]
    figure = Figure(figsize=(max(6.4, WIDTH * columns), HEIGHT * rows + 0.5 + 0.22 * len(named)), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        for lines_of in (expected or {}).items():
            _expected(axes, *lines_of, panel, batches)
        _panel(axes, runs, panel, smooth, log_y, batches)
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], linestyle=STYLES[i // len(COLOURS) % len(STYLES)], linewidth=2)
        for i in range(len(runs))
    ]
    handles += [Line2D([], [], color=GREY, linestyle="--", linewidth=2) for _ in expected or {}]
    figure.legend(handles, named, loc="outside upper left", frameon=False, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced(out) as part:
        figure.savefig(part, dpi=130, format=out.suffix.removeprefix(".") or None)
    return [name for panel in panels for name in panel]


def _expected(axes: Any, name: str, lines: Lines, panel: Sequence[str], batches: Mapping[str, int] | None) -> None:
    for metric in panel:
        x, y = series(lines, metric)
        axes.plot([step * batches[name] for step in x] if batches else x, y, "--", color=GREY, linewidth=1.4)


def _panel(
    axes: Any,
    runs: Mapping[str, Lines],
    panel: Sequence[str],
    smooth: int,
    log_y: bool,
    batches: Mapping[str, int] | None,
) -> None:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """0.2 instead of 2e-01."""

        def __call__(self, value: float, pos: int | None = None) -> str:
            return f"{value:g}" if super().__call__(value, pos) else ""

    many, positive = len(panel) > 1, True
    for i, (run, lines) in enumerate(runs.items()):
        for j, name in enumerate(panel):
            x, y = series(lines, name)
            x = [step * batches[run] for step in x] if batches else x
            colour = COLOURS[(j if many else i) % len(COLOURS)]
            style = STYLES[(0 if many else i // len(COLOURS)) % len(STYLES)]
            positive = positive and all(v > 0 for v in y)
            told = name.removeprefix(GRADIENTS) if many else None
            marker = "o" if len(x) == 1 else None
            if smooth > 1:
                axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(x, smoothed(y, smooth), style, color=colour, linewidth=1.4, label=told, marker=marker)
    axes.set_title(_title(panel), fontsize=10, loc="left")
    axes.set_xlabel("images seen" if batches else "step", fontsize=9)
    axes.tick_params(labelsize=8, which="both")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if log_y and positive and not set(panel) & set(LINEAR):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(Plain())
        axes.yaxis.set_minor_formatter(Plain(minor_thresholds=(1.2, 0.4)))
    for i, (run, lines) in enumerate(runs.items()):
        for line in lines:
            for alarm in line.get(ALARMS, ()):
                _mark(axes, line["step"] * (batches[run] if batches else 1), alarm["alarm"], COLOURS[i % len(COLOURS)])
    if panel == ["codes_used"]:
        _of_the_codebook(axes, runs)
    if many:
        axes.legend(frameon=False, fontsize=8)


def _mark(axes: Any, x: int, name: str, colour: str) -> None:
    """An alarm: a line at its step, and its name along it."""
    axes.axvline(x, color=colour, linestyle=":", linewidth=1)
    where = axes.get_xaxis_transform()  # x in data, y from 0 at the bottom to 1 at the top
    axes.text(x, 0.98, name.replace("-", " "), rotation=90, ha="right", va="top", fontsize=7, transform=where)


def _of_the_codebook(axes: Any, runs: Mapping[str, Lines]) -> None:
    """A second axis in percent, where all runs have a codebook of one size."""
    sizes = {
        line["codes_used"] + line["codes_dead"]
        for lines in runs.values()
        for line in lines
        if _is_number(line.get("codes_used")) and _is_number(line.get("codes_dead"))
    }
    axes.set_ylim(bottom=0)
    if len(sizes) == 1 and (size := sizes.pop()):
        axes.set_title(f"codes used, of {size:,}", fontsize=10, loc="left")
        share = axes.secondary_yaxis("right", functions=(lambda v: 100 * v / size, lambda v: v * size / 100))
        share.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
        share.tick_params(labelsize=8)


def _title(panel: Sequence[str]) -> str:
    if len(panel) > 1:
        common = panel[0].partition("/")[0]  # several are in one panel where they begin alike
        return "gradient norm by part" if panel[0].startswith(GRADIENTS) else common.replace("_", " ")
    return panel[0].replace("_", " ")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
