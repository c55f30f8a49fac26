"""The benchmark's page: one file that needs nothing else, neither network nor server."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from flexframe.bench.report import sprites, view
from flexframe.bench.runner import Gallery

LIMIT = 12_000_000
"""Bytes of pictures on a page; the rest of it is small."""


def write(results: Mapping[str, Any], images: Gallery, path: Path, *, limit: int = LIMIT) -> Path:
    """Write the page of a run's results to `path`, and return it. Large pictures are shrunk to keep it small."""
    made = sprites.make(images.real, images.fake, view.stops(results), limit)
    environment = Environment(
        loader=PackageLoader("flexframe.bench.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    here = files("flexframe.bench.report")
    text = environment.get_template("page.html.j2").render(
        **view.view(results, made),
        css=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
