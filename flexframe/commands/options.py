"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flexframe.commands import complete

if TYPE_CHECKING:
    from flexframe_registry import SuiteConfig

Images = Annotated[
    list[str],
    typer.Argument(metavar="IMAGES...", help="Files, folders (searched in depth), quoted globs, .tar shards."),
]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A card's id or file, a model file, or a run's folder.", autocompletion=complete.models
    ),
]
Seed = Annotated[int, typer.Option(help="What all draws follow from, beside each image's own number.")]
Resize = Annotated[
    str | None, typer.Option(help="torchvision-bicubic, torchvision-bilinear or adm; the card's own if not given.")
]
Device = Annotated[
    str,
    typer.Option(help="cpu, cuda, cuda:1 ..., mps, or auto: the best there is.", autocompletion=complete.devices),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of torch on a CPU; not given: one for a small model, else as many as the machine has to spare."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key.path=value: `run.*` sets the run, anything else the model.", metavar="[KEY=VALUE]..."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there: for other programs.")
]
Suite = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.", autocompletion=complete.suites)
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="The first images alone: a first look, whose numbers compare with none of all of them."),
]


def limited(suite: SuiteConfig, limit: int | None) -> SuiteConfig:
    """A suite of its first images alone, whose note says so."""
    if limit is None or (suite.count is not None and suite.count <= limit):
        return suite
    note = f"A first look, at {limit:,} images: no number here compares with one of the whole suite. {suite.note}"
    return suite.model_copy(update={"count": limit, "note": note.strip()})
