"""The benchmark's page: one file that needs nothing else, neither network nor server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from flexframe.bench.gallery import Gallery
from flexframe.bench.report import pictures, samples, view
from flexframe.files import write_text

LIMIT = 15_000_000
"""Bytes of a page."""


def write(results: Mapping[str, Any], images: Gallery, path: Path, *, limit: int = LIMIT) -> Path:
    """Write the page of a run's results to `path`, and return it.

    Where all pictures do not fit into `limit` bytes, fewer are shown, and the page says so.

    Raises:
        ValueError: a limit that not even one image fits into, or samples that cannot be read.
    """
    drawn = samples.read(results, path.parent)
    real, fake, numbers = _joined(images)
    first = len(images.real)
    for keep in _fewer(first, len(real)):
        sheets = pictures.make(real, fake, numbers, view.stops(results), keep)
        shown = sum(i < first for i in keep)
        text = _render(view.view(results, sheets, shown, len(real) - len(keep), drawn))
        size = len(text.encode())
        if size <= limit:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            return path
    raise ValueError(
        f"the page takes {size:,} bytes with {len(keep)} images, and the limit is {limit:,}; raise `limit`"
    )


def _joined(images: Gallery) -> tuple[torch.Tensor, dict[str, dict[int, torch.Tensor]], list[int]]:
    """The first images, and behind them the best and worst."""
    numbers = list(images.numbers) or list(range(len(images.real)))
    fake = {name: dict(rows) for name, rows in images.fake.items()}
    more = images.further
    if more is None:
        return images.real, fake, numbers
    for name, rows in fake.items():
        fake[name] = {k: torch.cat([row, more.fake[name][k]]) for k, row in rows.items()}
    return torch.cat([images.real, more.real]), fake, numbers + list(more.numbers)


def _fewer(first: int, count: int) -> Iterator[list[int]]:
    """Choices of images to show, ever fewer: fewer of the first ones, then none of the others, then one."""
    further, some = list(range(first, count)), first
    yield [*range(first), *further]
    while some > 4:
        some = max(4, some // 2)
        yield [*range(some), *further]
    if further:
        yield list(range(some))
    while some > 1:
        some //= 2
        yield list(range(some))


def _render(variables: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("flexframe.bench.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    here = files("flexframe.bench.report")
    return environment.get_template("page.html.j2").render(
        **variables,
        css=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
    )
