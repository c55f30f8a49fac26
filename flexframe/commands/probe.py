"""`probe`: how much of an image's class is read off tokens and features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import out, pick_device, print_json, refuse, say
from flexframe.commands.models import source_of
from flexframe.commands.options import AsJson, Device, Threads
from flexframe.lock import writes

EXAMPLES = (
    "flexframe probe digits flextok/digits-tiny titok/digits-tiny -o digits.json",
    "flexframe probe '{type: scenes, count: 2000}' flextok/scenes-64 --test '{type: scenes, split: val}'",
)
SOLVERS = "newton", "mae"


@writes("to")
def probe(
    train: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Labelled images to train on: a source, as digits or '{type: folder, path: DIR}'.",
            autocompletion=complete.names_of("source"),
        ),
    ],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Tokenizers.", autocompletion=complete.models)
    ],
    to: Annotated[Path | None, typer.Option("--out", "-o", help="A file .json to write; printed alone if not.")] = None,
    test: Annotated[str | None, typer.Option(help="Held-out images; if not given, SOURCE's with `split: val`.")] = None,
    what: Annotated[
        list[str] | None, typer.Option("--on", help="tokens, average or features; all if not given. Repeatable.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=20, help="Training images, the first ones.")] = None,
    solver: Annotated[
        str, typer.Option(help="newton: logistic regression to its optimum; mae: that of masked autoencoders' paper.")
    ] = "newton",
    epochs: Annotated[int, typer.Option(min=1, help="Of mae.")] = 90,
    lr: Annotated[float, typer.Option(min=0, help="Of mae, at a batch of 256.")] = 0.1,
    neighbours: Annotated[int, typer.Option(min=1, help="Neighbours that vote.")] = 20,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Train a linear probe, and ask neighbours, on what tokenizers make of images at every token count."""
    given = source_of(train, "SOURCE")
    held = source_of(test, "--test") if test is not None else _held_out(given)
    from flexframe.bench import probe as run
    from flexframe.bench.names import names_of
    from flexframe.files import write_json

    wanted = [each for each in run.WHATS if what is None or each in what]
    wrong = sorted(set(what or ()) - set(run.WHATS)) + ([solver] if solver not in SOLVERS else [])
    if wrong:
        refuse("--solver" if wrong == [solver] else "--on", f"there is no {wrong[0]!r}")
    names = names_of(models)
    on = pick_device(device)
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe.threads import use
    from flexframe_registry import catalogue

    loaded = [(name, load(model, device=on)) for name, model in zip(names, models, strict=True)]
    use(threads, *(model for _, model in loaded))
    sizes = {model.config.image_size for _, model in loaded}
    if len(sizes) > 1:
        refuse("MODEL", "are of different image sizes, which see other images; probe them apart")
    way = preprocessing(models[0]).resize
    known, asked = (
        run.Labelled.of(catalogue().build(each.resized(way), next(iter(sizes)), place=place), most, place)
        for each, most, place in ((given, count, "SOURCE"), (held, None, "--test"))
    )
    settings = run.Settings(solver="mae" if solver == "mae" else "newton", epochs=epochs, lr=lr, neighbours=neighbours)
    with say.status("probing"):
        found = run.probe(loaded, known, asked, wanted, settings, on)
    found["data"] = {"train": given.model_dump(mode="json"), "test": held.model_dump(mode="json")}
    if to is not None:
        write_json(to, found)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _held_out(given: Any) -> Any:
    if "split" not in type(given).model_fields:
        refuse("--test", f"is not given, and source {given.type} has no split of its own; name held-out images")
    return type(given).read({**given.model_dump(mode="json"), "split": "val"})


def _print(found: Any) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("model", "on", "tokens", "linear, %", "95 %", "neighbours, %", "95 % "):
        table.add_column(name, justify="left" if name in ("model", "on") else "right")
    for row in found["rows"]:
        cells = [row["model"], row["on"], str(row["tokens"])]
        for by in ("linear", "neighbours"):
            cells += [f"{row[by]['accuracy']:.1f}", f"{row[by]['low']:.1f} – {row[by]['high']:.1f}"]
        table.add_row(*cells)
    out.print(table)
    out.print(f"{found['chance']:.1f} % by chance; {found['test']['count']:,} held-out images", style="dim")
    for rise in found["rises"]:
        ends = f"{rise['low']:+.1f} to {rise['high']:+.1f}"
        told = f"{rise['difference']:+.1f} ({ends}) from {rise['from']} to {rise['to']} tokens: {rise['verdict']}"
        out.print(f"{rise['model']}, linear on {rise['on']}: {told}", markup=False, soft_wrap=True)
