"""`results`: any number of results as one table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands.common import out, refuse

EXAMPLES = (
    "flexframe results out/mine out/theirs",
    "flexframe results out --tokens 16..64 --sort psnr -o table.tex",
    "flexframe results benchmarks/results --suite scenes-64 --measure psnr --measure lpips",
)
FORMATS = {".md": "md", ".csv": "csv", ".tex": "latex", ".json": "json", ".html": "page"}
UNITS = {"k": 1e3, "M": 1e6, "B": 1e9}
Many = list[str] | None


def results(
    places: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Files results.json, or folders that hold some, in depth."),
    ],
    to: Annotated[Path | None, typer.Option("--out", "-o", help="A file: .md, .csv, .tex, .json or .html.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="md, csv, latex, json or page; by the file's suffix, else md.")
    ] = None,
    sort: Annotated[
        str, typer.Option(help="tokens, bits, parameters, model, or a measure, as psnr: the best first.")
    ] = "tokens",
    suites: Annotated[Many, typer.Option("--suite", help="Of this suite alone; repeatable.")] = None,
    models: Annotated[
        Many, typer.Option("--model", "-m", help="Models of this name, as 'family/*'; repeatable.")
    ] = None,
    measures: Annotated[Many, typer.Option("--measure", help="This measure alone, as psnr; repeatable.")] = None,
    protocols: Annotated[
        Many, typer.Option("--protocol", help="Numbers of this protocol's id, or its beginning; repeatable.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Token counts, as 16 or 8..64 or 32.. .")] = None,
    bits: Annotated[str | None, typer.Option(help="Bits an image, as ..256.")] = None,
    parameters: Annotated[str | None, typer.Option(help="Parameters with codec, as ..50M.")] = None,
    over_seeds: Annotated[
        bool, typer.Option("--over-seeds", help="One row for runs of one recipe: means and what another seed changes.")
    ] = False,
    published: Annotated[
        bool, typer.Option(help="Below, what cards quote of models of the same image size, as published.")
    ] = True,
) -> None:
    """Merge results into one table: what was measured alike shares a column; what is published stands by itself."""
    form = form or (FORMATS.get(to.suffix, "") if to else "md")
    if form not in FORMATS.values():
        given = f"--format {form}" if form else str(to)
        refuse(given, f"is of no form that is known; there are: {', '.join(FORMATS.values())}")
    from flexframe.bench import board, board_text
    from flexframe.files import write_text

    ends = {name: _span(name, text) for name, text in (("tokens", tokens), ("bits", bits), ("parameters", parameters))}
    wanted = board.Wanted(models or (), suites or (), protocols or (), measures or (), **ends, sort=sort)
    made = board.boards(board.find(places), wanted, to.absolute().parent if to else Path())
    if over_seeds:
        from flexframe.bench import seeds

        seeds.over_seeds(made)
    quoted = board.published(wanted, [tuple(each.facts["image_size"]) for each in made]) if published else []
    writers = (board_text.markdown, board_text.comma, board_text.latex, board.as_json, board_text.page)
    text = dict(zip(FORMATS.values(), writers, strict=True))[form](made, quoted)
    if to is None:
        out.print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    write_text(to, text)
    out.print(f"{sum(len(each.rows) for each in made)} rows in {to}", markup=False, soft_wrap=True)


def _span(name: str, text: str | None) -> tuple[float, float] | None:
    """The ends of `16`, `8..64`, `..64` or `8..`, each with k, M or B."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    ends = [_number(low, 0.0), _number(high, float("inf"))] if dots else [_number(low, None)] * 2
    if None in ends or (not low and not high):
        refuse(f"--{name}", f"is {text!r}; give a number, or two ends as 8..64, ..64 or 8..")
    return ends[0] or 0.0, ends[1] or 0.0


def _number(text: str, absent: float | None) -> float | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", text)
    return absent if found is None and not text else None if found is None else float(found[1]) * UNITS.get(found[2], 1)
