"""`plot`: curves of runs against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands.common import out, refuse, say
from flexframe.lock import writes

EXAMPLES = ("flexframe plot runs/a runs/b --metric loss,held_out --smooth 5 --log-y -o curves.png",)

SUFFIXES = (".png", ".svg", ".pdf")


@writes("to")
def plot(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or their log.jsonl.", metavar="RUN...")],
    to: Annotated[Path, typer.Option("--out", "-o", help="The picture: .png, .svg or .pdf.")] = Path("plot.png"),
    metric: Annotated[
        list[str] | None,
        typer.Option(help="What to draw, as loss,held_out; repeatable. `grad_norm/` draws all that begin so."),
    ] = None,
    smooth: Annotated[int, typer.Option(min=1, help="Log lines averaged to a point.")] = 1,
    log_y: Annotated[bool, typer.Option("--log-y", help="Losses and norms on a logarithm.")] = False,
    images: Annotated[bool, typer.Option("--images", help="Over images seen, not steps.")] = False,
) -> None:
    """Draw loss and metric curves of runs against each other, a panel a metric; codebook use and gradient norms too.
    Of a run of a card that says which curve to expect, that one stands beside it, grey and dashed.
    """
    if to.suffix.lower() not in SUFFIXES:
        refuse("--out", f"{to.name!r} ends in none of {', '.join(SUFFIXES)}")
    from flexframe.train.curves import draw
    from flexframe.train.expected import expected
    from flexframe.train.history import log, read

    names = _short(folders)
    batches = {name: read(folder).batch_size for name, folder in names.items()} if images else None
    logs = {name: log(folder) for name, folder in names.items()}
    for name, lines in logs.items():
        if not lines:
            say.print(f"{name} has logged nothing yet", style="yellow", markup=False)
    wanted = [each for text in metric or [] for each in text.split(",") if each]
    beside = {}
    for name, folder in names.items():
        curve = expected(folder)
        if curve is not None and (label := f"{curve.card}, as expected") not in beside:
            beside[label] = curve.lines
            if batches is not None:
                batches[label] = batches[name]
    drawn = draw(logs, to, metrics=wanted, smooth=smooth, log_y=log_y, batches=batches, expected=beside)
    out.print(f"{', '.join(drawn)} of {len(logs)} {'run' if len(logs) == 1 else 'runs'} in {to}", soft_wrap=True)


def _short(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the shortest ends of their paths that tell them apart."""
    from flexframe_registry.runfolder import LOG

    places = [(folder.parent if folder.name == LOG else folder).absolute() for folder in folders]
    if len(set(places)) < len(places):
        refuse("", "a run is named twice; name each once")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, places, strict=True))
