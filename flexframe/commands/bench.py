"""`bench`: models on the same images, measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands import complete
from flexframe.commands.common import names_and_settings, names_of, out, pick_device, print_json, refuse, say
from flexframe.commands.options import AsJson, Device, Limit, Suite, Threads, limited
from flexframe.lock import writes

EXAMPLES = (
    "flexframe bench scenes-64 flextok/scenes-64 titok/scenes-64-16 -o out",
    "flexframe bench digits runs/mine count=100 -o out",
    "flexframe bench digits flextok/digits-tiny --json > numbers.json",
)


def bench(
    name: Suite,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Cards or their files, model files, run folders; and settings of the suite, as data.path=photos.tar.",
            autocompletion=complete.models,
        ),
    ],
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Where results.json and report.html go: a folder of their own.")
    ] = Path("out"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed only.")] = 64,
    priors: Annotated[
        list[str] | None,
        typer.Option("--prior", help="Priors of which the page shows a picture of each class, by length; repeatable."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing, what is measured and how long it takes; no more.")
    ] = False,
    expect: Annotated[
        bool, typer.Option("--expect", help="Hold the numbers against what the models' cards say: exit code 1 if not.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the images, each on a GPU of its own where there are any.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure models on the same images at every token count they support, and write a page."""
    from flexframe_registry import suite

    models, overrides = names_and_settings(models)
    measured = limited(suite(name, overrides), limit)
    names_of(models)
    if dry_run:
        _rehearse(measured, models, batch_size, device, threads)
        return
    from flexframe.store.places import find

    for model in [*models, *(priors or [])]:
        find(model)  # a typo is told before anything is measured
    wanted = _expected(name, models, overrides, limit) if expect else {}
    measure(name, measured, models, folder, batch_size, device, priors or [], threads, as_json, processes)
    if expect:
        _hold(name, folder, wanted)


def _expected(name: str, models: list[str], overrides: list[str], limit: int | None) -> dict[str, Any]:
    """The cards that expect numbers of a suite, by the models' names in tables."""
    from flexframe.store.places import locate
    from flexframe_registry.suites import version

    changed = [each for each in overrides if not each.startswith("data.path=")]
    if changed or limit is not None:
        said = changed[0] if changed else f"--limit {limit}"
        refuse("--expect", f"is of a suite as it is, and {said} changes it; leave one of the two out")
    found = {called: locate(model).card for called, model in zip(names_of(models), models, strict=True)}
    cards = {called: card.file for called, card in found.items() if card is not None}
    suite = version(name)
    if not any(wanted.suite == suite for card in cards.values() for wanted in card.expect):
        refuse("--expect", f"no card of {', '.join(models)} says what to expect of {suite}; leave --expect out")
    return cards


def _hold(name: str, folder: Path, cards: dict[str, Any]) -> None:
    """Print what became of each expected number."""
    from flexframe.bench.expect import checks
    from flexframe.bench.results import FILE, read
    from flexframe_registry.suites import version

    made = list(checks(read(folder / FILE), cards, version(name)))
    for each in made:
        say.print(each.line(), style=None if each.holds else "red", markup=False, soft_wrap=True)
    if not all(each.holds for each in made):
        raise typer.Exit(1)


def _rehearse(measured: Any, models: list[str], batch_size: int, device: str, threads: int | None) -> None:
    """Print what a benchmark would do."""
    from flexframe.bench.call import opened
    from flexframe.bench.reconstructions import Reconstruct
    from flexframe.bench.rehearsal import rehearse
    from flexframe.threads import use

    on = pick_device(device)
    with say.status("trying it on a few images"):
        entrants = opened(models, on)
        use(threads, *(model for _, model in entrants.models))
        told = rehearse(Reconstruct(entrants.models), entrants.settled(measured), batch_size=batch_size, device=on)
    for line in told.lines():
        out.print(line, markup=False, soft_wrap=True)


@writes("folder")
def measure(
    name: str,
    measured: Any,
    models: list[str],
    folder: Path,
    batch_size: int,
    device: str,
    priors: Sequence[str] = (),
    threads: int | None = None,
    as_json: bool = False,
    processes: int = 1,
) -> None:
    """Measure, print the table or what results.json holds, and write the page; with a picture of each class by `priors`
    on it."""
    from tempfile import TemporaryDirectory

    from flexframe.bench.call import opened
    from flexframe.bench.report import write
    from flexframe.bench.runner import run
    from flexframe.bench.table import print_table
    from flexframe.terminal import Bars
    from flexframe.threads import use
    from flexframe.use.drawn import draw, judged
    from flexframe_registry import catalogue

    on = pick_device(device)
    entrants = opened(models, on)
    use(threads, *(model for _, model in entrants.models))
    measured = entrants.settled(measured)
    with Bars(say) as progress:
        report = run(
            measured, entrants.models, folder, name=name, batch_size=batch_size, device=on, progress=progress,
            processes=processes,
        )  # fmt: skip
    if as_json:
        print_json(report.results)
    else:
        print_table(report.results, out)
    for remark in report.remarks:
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    with TemporaryDirectory() as drawn:
        with say.status("drawing from the priors"):
            samples = draw(priors, Path(drawn), device=on)
            judged(samples, catalogue().build(measured.data, tuple(report.images.real.shape[2:])))
        page = write({**report.results, "samples": samples, "training": entrants.training}, report.images, report.page)
    (say if as_json else out).print(f"\nthe page: {page.resolve().as_uri()}", soft_wrap=True)
