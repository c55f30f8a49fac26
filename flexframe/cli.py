"""The command line. Nothing here imports torch until a command needs it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flexframe.commands import (
    bench_samples,
    complete,
    explain,
    generate,
    importing,
    inspect,
    new_plugin,
    precompute,
    runs,
    use,
)
from flexframe.commands.common import (
    DEBUG,
    Device,
    names_and_settings,
    names_of,
    out,
    pick_device,
    say,
    take_debug,
    tell,
    versions,
)
from flexframe_registry import ConfigError, cards, catalogue, suite
from flexframe_registry.cards import card as find_card
from flexframe_registry.errors import UnknownName, nearest
from flexframe_registry.files import read_yaml
from flexframe_registry.kinds import KINDS
from flexframe_registry.runfolder import RunFolder
from flexframe_registry.suites import SUITES

app = typer.Typer(
    name="flexframe",
    help="A modular framework for 1D image tokenizers: published ones and yours, trained and measured alike.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key.path=value: `run.*` sets the run, anything else the model.", metavar="[KEY=VALUE]..."),
]
DEMO_MODELS = "flextok/scenes-64", "titok/scenes-64-16", "titok/scenes-64-4", "grid/scenes-64"
"""One model of any length; fixed lengths, which need a model each; and a 2D grid, the codec of all three."""
DEMO_PRIORS = "gpt/scenes-64-flextok", "gpt/scenes-64-titok-16", "gpt/scenes-64-titok-4"
DEMO_SUITE = "scenes-64"
DEMO_WITHOUT = ("lpips",)
"""Metrics of the suite whose weights would be downloaded."""
DEMO_TRAINED = "flextok/digits-tiny", "titok/digits-tiny"
DEMO_TRAINED_SUITE = "digits"
STEPS_A_SECOND = 13
"""Measured for either model on one core of an AMD EPYC of 2022 (benchmarks/results)."""


def main() -> None:
    """Entry point: an error is one line, and a traceback only with --debug or FLEXFRAME_DEBUG=1."""
    debug = take_debug(sys.argv)
    try:
        app()
    except BrokenPipeError:  # as in `flexframe list | head`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            _abandon(1, traceback.print_exc)
            raise
        if "_FLEXFRAME_COMPLETE" in os.environ:
            sys.exit(1)  # nobody wants an error between the words being typed
        code = tell(error)
        _abandon(code)
        sys.exit(code)
    except KeyboardInterrupt:
        say.print("interrupted", style="red")
        _abandon(130)
        sys.exit(130)


def _abandon(code: int, say_why: Callable[[], object] = lambda: None) -> None:
    """End here, if this is one of several processes that train: the usual end would wait for the others."""
    if "flexframe.train.distributed" in sys.modules:
        from flexframe.train import distributed

        if distributed.joined():
            say_why()
            distributed.abandon(code)


def _print_versions(wanted: bool) -> bool:
    if wanted:
        out.print("\n".join(versions()), highlight=False)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_versions, is_eager=True, help="Versions of flexframe and plugins."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks of errors; anywhere on the line, or {DEBUG}=1.")
    ] = False,
) -> None:
    """The options of all commands; `main` has taken --debug out before this is asked."""


# --- what is there -----------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="One kind: " + ", ".join(KINDS), autocompletion=complete.kinds)
    ] = None,
) -> None:
    """List parts, cards and suites, who provides each, and plugins that cannot be used."""
    if kind is not None and kind not in KINDS:
        raise UnknownName(f"no kind named {kind!r}.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}")
    found = catalogue()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, style in (("kind", "dim"), ("name", "cyan"), ("what", ""), ("provided by", "dim")):
        table.add_column(name, style=style, no_wrap=name != "what")
    for each in [kind] if kind else KINDS:
        for name in found.names(each):
            component = found.get(each, name)
            table.add_row(each, name, _first_line(component.config.__doc__), component.provider)
    if kind is None:
        for name in cards().names():
            weights, summary = _card_line(name)
            table.add_row("card" + weights, name, summary, "")
        for path in sorted(SUITES.glob("*.yaml")):
            table.add_row("suite", path.stem, str(read_yaml(path).get("note", "")), "")
    out.print(table)
    if kind is None:
        out.print("* ships trained weights", style="dim")
    for broken in dict.fromkeys([*found.broken, *cards().broken]):
        say.print(f"plugin {broken.plugin!r} ({broken.provider}) cannot be used: {broken.error}", style="yellow")


# --- training ----------------------------------------------------------------------------------------------------


@app.command()
def train(
    card: Annotated[
        str | None,
        typer.Argument(help="A card's id, or a YAML file of the same form.", autocompletion=complete.models),
    ] = None,
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run from its last whole checkpoint.")] = None,
    device: Device = "auto",
    overfit_batch: Annotated[
        bool, typer.Option("--overfit-batch", help="Train on the first batch alone, to see whether a run is healthy.")
    ] = False,
) -> None:
    """Train a tokenizer or a prior: `flexframe train flextok/digits-tiny quantizer=vq run.steps=20`.

    On several GPUs: `torchrun --nproc-per-node=8 -m flexframe train CARD ...`; see docs/training.md.
    """
    if (card is None) == (resume is None):
        raise ConfigError.at("", "name a card to train, or a run's folder with --resume; one of the two")
    if resume is not None and folder is not None:
        raise ConfigError.at("--out", "a resumed run stays in its folder; leave -o out")
    if card is not None:
        found = find_card(card)
        given = [*(overrides or []), *(["run.overfit_batch=true"] if overfit_batch else [])]
        config = found.train(given)  # a typo is told before torch is imported
    elif overrides or overfit_batch:
        raise ConfigError.at("", "a resumed run keeps its settings; leave them out")
    from flexframe.train import distributed
    from flexframe.train.console import Console as TrainConsole
    from flexframe.train.loop import train as loop
    from flexframe.train.run import Run, timeout

    on = pick_device(distributed.local_device(device) if distributed.launched() else device)
    processes = distributed.join(on, timeout(resume) if resume is not None else config.run.timeout)
    # where this process fails, `main` ends it: the others may not have, and leaving them would wait for them
    if resume is not None:
        run = Run.resume(resume, on, processes)
        if run.step >= run.config.run.steps and run.paths.model.is_file():
            run.close()
            if processes.first:
                out.print(f"{resume} is finished: {run.step} steps")
            distributed.leave()
            return
    else:
        own, cards_own = config.model.sampled, found.described.sampled
        same = own is not None and cards_own is not None and own.type == cards_own.type
        folder = processes.told(folder or _fresh_folder(found.id))
        run = Run.create(config, folder, on, found.file.sampling if same else {}, processes)
    stopped = loop(run, TrainConsole(out if processes.first else Console(quiet=True)))
    distributed.leave()
    if not processes.first:
        return
    for remark in run.feed.remarks():
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    if stopped is not None:
        again = f"flexframe train --resume {run.folder}"
        text = (
            f"stopped by {stopped} after step {run.step} of {run.config.run.steps}, which is saved; go on with: {again}"
        )
        out.print(text, soft_wrap=True, markup=False)
        return
    kind = run.config.model.kind
    also = f", kind={kind!r}" if kind != "tokenizer" else ""
    out.print(f"trained {run.step} steps; load it with flexframe.load({str(run.folder)!r}{also})")


# --- measuring ---------------------------------------------------------------------------------------------------


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.", autocompletion=complete.suites),
    ],
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
) -> None:
    """Measure models on the same images at every token count they support, and write a page."""
    models, overrides = names_and_settings(models)
    measured = suite(name, overrides)
    names_of(models)
    from flexframe.store.places import find

    for model in [*models, *(priors or [])]:
        find(model)  # a typo is told before anything is measured
    _bench(name, measured, models, folder, batch_size, device, priors or [])


def _bench(
    name: str,
    measured: Any,
    models: list[str],
    folder: Path,
    batch_size: int,
    device: str,
    priors: Sequence[str] = (),
) -> None:
    """Measure, print the table, and write the page; with a picture of each class by `priors` on it."""
    from tempfile import TemporaryDirectory

    from rich.progress import Progress

    from flexframe.bench.report import write
    from flexframe.bench.runner import run
    from flexframe.bench.table import print_table
    from flexframe.store.load import load
    from flexframe.store.places import preprocessing
    from flexframe.use.drawn import draw
    from flexframe_registry.suites import settle

    on, names = pick_device(device), names_of(models)
    loaded = [(called, load(m, device=on)) for called, m in zip(names, models, strict=True)]
    data = settle(measured.data, {called: preprocessing(m).resize for called, m in zip(names, models, strict=True)})
    measured = measured.model_copy(update={"data": data})
    with Progress(console=say, transient=True) as progress:
        found = run(measured, loaded, folder, name=name, batch_size=batch_size, device=on, progress=progress)
    print_table(found.results, out)
    for remark in found.remarks:
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    with TemporaryDirectory() as drawn:
        with say.status("drawing from the priors"):
            samples = draw(priors, Path(drawn), device=on)
        page = write({**found.results, "samples": samples}, found.images, folder / "report.html")
    out.print(f"\nthe page: {page.resolve().as_uri()}", soft_wrap=True)


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes: demo, or demo-trained.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--train", help="Train small models of digits from scratch, and compare these.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Compare the models of drawn scenes that ship with the project, on scenes they have not seen: a minute or two.

    With --train, two small tokenizers of handwritten digits are trained from scratch and compared.
    """
    folder = folder or Path("demo-trained" if retrain else "demo")
    if not retrain:
        out.print("256 held-out scenes: three 1D tokenizers and a 2D grid; a minute or two on a CPU")
        measured = suite(DEMO_SUITE)
        kept = tuple(metric for metric in measured.metrics if metric.type not in DEMO_WITHOUT)
        measured = measured.model_copy(update={"metrics": kept})
        _bench(DEMO_SUITE, measured, list(DEMO_MODELS), folder, 64, device, DEMO_PRIORS)
        return
    targets = {m: folder / m.replace("/", "-") for m in DEMO_TRAINED}
    if (folder / "results.json").is_file() and not any(RunFolder(each).config.is_file() for each in targets.values()):
        raise ConfigError.at(str(folder), "holds the results of another benchmark; choose another folder by -o")
    steps = sum(cards().get(m).run.steps for m in DEMO_TRAINED)
    minutes = steps / STEPS_A_SECOND / 60
    out.print(f"training both from scratch: {steps:,} steps, about {minutes:.0f} minutes on a CPU core")
    trained = []
    for m, target in targets.items():
        if RunFolder(target).config.is_file():
            train(None, None, None, target, device)
        else:
            train(m, None, target, None, device)
        trained.append(str(target))
    _bench(DEMO_TRAINED_SUITE, suite(DEMO_TRAINED_SUITE), trained, folder, 64, device)


app.command()(inspect.show)
app.command()(inspect.doctor)
app.command()(inspect.init)
app.command("import")(importing.import_)
app.command()(importing.verify)
app.command()(explain.explain)
app.command()(use.encode)
app.command()(use.decode)
app.command()(use.reconstruct)
app.command()(generate.generate)
app.command()(bench_samples.bench_samples)
app.command()(runs.runs)
app.command()(runs.plot)
app.add_typer(precompute.app, name="precompute")
app.command()(new_plugin.new_plugin)


# --- helpers -----------------------------------------------------------------------------------------------------


def _fresh_folder(card: str) -> Path:
    base = Path("runs") / card.replace("/", "-")
    taken = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    return next(path for path in taken if not path.exists())


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _card_line(name: str) -> tuple[str, str]:
    try:
        card = cards().get(name)
    except (ConfigError, LookupError) as error:
        return "", f"cannot be read: {error}"
    return "*" if card.file.weights else "", card.file.summary


if __name__ == "__main__":
    main()
