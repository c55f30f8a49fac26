"""A benchmark's result as a notebook shows it: the table, curves of the first numbers, and a strip of pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image

from flexframe.bench.gallery import Report
from flexframe.bench.report.numbers import Column, Numbers
from flexframe.bench.report.view import stops
from flexframe.bench.table import best_models, print_table, shown_bits
from flexframe.pictures import sheet
from flexframe.terminal import Terminal

CURVES = 3
"""Numbers of which a curve is drawn: the first that have a better end."""
IMAGES, COLUMNS = 2, 7
"""Images of a strip, and token counts beside each other."""
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0")


def text(report: Report) -> str:
    """The table, as the command prints it."""
    page = io.StringIO()
    print_table(report.results, Terminal(file=page, width=120))
    return page.getvalue().rstrip()


def html(report: Report) -> str:
    """Table, curves and strip as one piece of HTML that needs nothing else."""
    numbers = Numbers(report.results)
    parts = [_head(report), _table(numbers)]
    parts += [_picture(_curves(numbers), "curves over tokens")] if any(c.directed for c in numbers.columns) else []
    parts += [_picture(image, name) for name, image in strips(report).items()]
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))


def _head(report: Report) -> Markup:
    results = report.results
    ids = sorted({column.protocol for column in Numbers(results).columns})
    said = f"suite {results['suite'].get('name', '')}".rstrip()
    protocols = f"protocols {', '.join(ids)}: numbers of one id compare" if ids else ""
    line = Markup("<p>{}</p>").format("; ".join(filter(None, (said, protocols))))
    if not report.page.is_file():
        return line
    return line + Markup('<p>the page: <a href="{0}">{0}</a></p>').format(report.page.resolve().as_uri())


def _table(numbers: Numbers) -> Markup:
    results, right = numbers.results, Markup('<td style="text-align:right">{}</td>')
    names = ["model", "tokens", "bits", *(f"{c.label} {c.unit}".rstrip() for c in numbers.columns)]
    sides = ["left", *("right" for _ in names[1:])]
    head = Markup("").join(map(Markup('<th style="text-align:{}">{}</th>').format, sides, names))
    rows = []
    for name, model in results["models"].items():
        for budget, entry in model["budgets"].items():
            cells = [right.format(int(budget)), right.format(shown_bits(entry["bits"]))]
            for column in numbers.columns:
                told = column.text(numbers.value(column, name, int(budget)))
                best = name in best_models(results, column.name, int(budget), column.protocol)
                cells.append(right.format(Markup("<b>{}</b>").format(told) if best else told))
            left = Markup('<td style="text-align:left">{}</td>').format(name)
            rows.append(Markup("<tr>{}{}</tr>").format(left, Markup("").join(cells)))
    body = Markup("").join(rows)
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def _curves(numbers: Numbers) -> Image.Image:
    """A panel a number, a line a model; a model of one token count is a marker."""
    from matplotlib.figure import Figure

    columns = [column for column in numbers.columns if column.directed][:CURVES]
    figure = Figure(figsize=(4.2 * len(columns), 3.0), layout="constrained")
    for i, column in enumerate(columns):
        axes = figure.add_subplot(1, len(columns), i + 1)
        _panel(axes, numbers, column)
        if i == 0:
            axes.legend(fontsize=7, frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return Image.open(content).convert("RGB")


def _panel(axes: Any, numbers: Numbers, column: Column) -> None:
    ticks = set[int]()
    for i, (name, model) in enumerate(numbers.results["models"].items()):
        found = {int(k): value for k in model["budgets"] if (value := numbers.value(column, name, int(k))) is not None}
        counts = sorted(found)
        ticks |= set(counts)
        axes.plot(counts, [found[k] for k in counts], marker="o", ms=4, color=COLOURS[i % len(COLOURS)], label=name)
    if ticks:
        few = sorted(ticks) if len(ticks) <= 8 else [k for k in sorted(ticks) if k & (k - 1) == 0]
        axes.set_xscale("log", base=2)
        axes.set_xticks(few, [f"{k:,}" for k in few])
        axes.minorticks_off()
    axes.set_title(f"{column.label}{f', {column.unit}' if column.unit else ''}", fontsize=9)
    axes.set_xlabel("tokens", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)


def strips(report: Report) -> dict[str, Image.Image]:
    """Pictures by model: the first images, and what it makes of them at some of its token counts."""
    images, chosen = report.images, stops(report.results)
    made = dict[str, Image.Image]()
    for name, rows in images.fake.items():
        count = min(IMAGES, len(images.real))
        counts = _some([k for k in chosen if k in rows])
        if count and counts:
            pictures = [
                [(images.real[i], "original"), *((rows[k][i], f"{k} token{'s' * (k > 1)}") for k in counts)]
                for i in range(count)
            ]
            made[name] = sheet(pictures)
    return made


def _some(counts: Sequence[int]) -> list[int]:
    """At most `COLUMNS` of them, the first and the last among them."""
    if len(counts) <= COLUMNS:
        return list(counts)
    return [counts[round(i * (len(counts) - 1) / (COLUMNS - 1))] for i in range(COLUMNS)]


def _picture(image: Image.Image, caption: str) -> Markup:
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    figure = '<figure style="margin:1em 0"><figcaption>{0}</figcaption><img alt="{0}" src="data:image/png;base64,{1}">'
    return Markup(figure + "</figure>").format(caption, data)
