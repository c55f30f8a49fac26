"""`bench-samples`: what priors draw, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import Device, names_and_settings, names_of, out, pick_device, say
from flexframe.commands.generate import Guidance, Settings, Temperature, TopK, TopP, read_settings
from flexframe_registry import ConfigError, suite


def bench_samples(
    name: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A suite's name, or a YAML file.", autocompletion=complete.suites),
    ],
    priors: Annotated[
        list[str],
        typer.Argument(
            metavar="PRIOR... [KEY=VALUE]...",
            help="Cards, model files or run folders; and settings of the suite, as count=500 or budgets='[4, 16]'.",
            autocompletion=complete.models,
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where results.json and the pictures go.")],
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    guidance: Guidance = None,
    settings: Settings = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The tokenizer; each prior's own if not given.", autocompletion=complete.models
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time; changes speed only.")] = 64,
    device: Device = "auto",
) -> None:
    """Draw samples of priors at every token count, of all classes in turn, and measure them.

    `flexframe bench-samples scenes-64-samples gpt/scenes-64-flextok gpt/scenes-64-titok-16 -o out`
    """
    named, overrides = names_and_settings(priors)
    measured = suite(name, overrides)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    sampling, decoding = read_settings(given, settings)
    names = names_of(named)
    from flexframe.store.load import load
    from flexframe.store.places import find, preprocessing

    for prior in named:
        find(prior)  # a typo is told before anything is drawn
    on = pick_device(device)
    from rich.progress import Progress

    from flexframe.bench.samples import FOLDER, run
    from flexframe.bench.table import print_table
    from flexframe.models.generator import Generator
    from flexframe_registry.suites import settle

    loaded, ways = [], {}
    for shown, prior in zip(names, named, strict=True):
        generator = load(prior, device=on, kind=None)
        if not isinstance(generator, Generator):
            raise ConfigError.at(prior, "is no prior; `flexframe bench` measures tokenizers")
        where = model or generator.config.tokenizer
        if where is None:
            raise ConfigError.at(prior, "names no tokenizer; give it with --model")
        loaded.append((shown, generator, load(where, device=on)))
        ways[shown] = preprocessing(where).resize
    if loaded:
        measured = measured.model_copy(update={"data": settle(measured.data, ways)})
    with Progress(console=say, transient=True) as progress:
        found = run(
            measured, loaded, folder, name=name, sampling=sampling, decoding=decoding, batch_size=batch_size, device=on,
            progress=progress,
        )  # fmt: skip
    print_table(found.results, out)
    for remark in found.remarks:
        say.print(remark, style="yellow", markup=False, soft_wrap=True)
    shown_at = f"; the first samples are in {folder / FOLDER}" if measured.show else ""
    out.print(f"\nthe numbers: {folder / 'results.json'}{shown_at}", markup=False, soft_wrap=True)
