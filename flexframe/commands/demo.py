"""`demo`: the models that ship, compared. A card says by `demo` on which suite it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexframe.commands.bench import measure
from flexframe.commands.common import out, pick_device, refuse
from flexframe.commands.options import Device, Threads
from flexframe.commands.train import train

if TYPE_CHECKING:
    from flexframe_registry import Card

EXAMPLES = (
    "flexframe demo",
    "flexframe demo --train -o demo-trained",
)

STEPS_A_SECOND = 13
"""Steps of training of a shipped model of digits, measured on one core of an AMD EPYC of 2022 (benchmarks/results)."""


def demo(
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the page goes: demo, or demo-trained.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--train", help="Train small models of digits from scratch, and compare these.")
    ] = False,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Compare the models of drawn scenes that ship with the project, on scenes they have not seen: a minute or two.

    With --train, small models of handwritten digits are trained from scratch and compared.
    """
    from flexframe.doctor import offline
    from flexframe_registry import suite
    from flexframe_registry.runfolder import RunFolder

    pick_device(device)  # a typo is told before anything is read
    folder = folder or Path("demo-trained" if retrain else "demo")
    shown, name = _shown(retrain)
    models = [card.id for card in shown if card.described.kind == "tokenizer"]
    measured = suite(name)
    if not retrain:
        out.print(f"suite {name}: {', '.join(models)}; a minute or two on a CPU")
        priors = [card.id for card in shown if card.id not in models]
        with offline("the demo"):  # a metric whose weights are not here is named, with how to get them
            measure(name, measured, models, folder, 64, device, priors, threads)
        return
    folders = {model: folder / model.replace("/", "-") for model in models}
    if (folder / "results.json").is_file() and not any(RunFolder(each).config.is_file() for each in folders.values()):
        refuse(str(folder), "holds the results of another benchmark; choose another folder by -o")
    steps = sum(card.run.steps for card in shown)
    minutes = steps / STEPS_A_SECOND / 60
    out.print(f"training {', '.join(models)} from scratch: {steps:,} steps, about {minutes:.0f} minutes on a CPU core")
    settings = [f"run.threads={threads}"] if threads else []
    for model, target in folders.items():
        if RunFolder(target).config.is_file():
            train(None, settings, None, target, device)
        else:
            train(model, settings, target, None, device)
    measure(name, measured, [str(target) for target in folders.values()], folder, 64, device, threads=threads)


def _shown(trained: bool) -> tuple[list[Card], str]:
    """The installed cards that the demo shows, in their order, and the suite on which it does.

    Raises:
        ConfigError: where no plugin is installed that brings one.
    """
    from flexframe_registry import cards

    placed = []
    for name in cards().names():
        card = cards().get(name)
        if card.file.demo is not None and card.file.demo.trained is trained:
            placed.append((card.file.demo.place, name, card))
    if not placed:
        refuse("demo", "no installed card is shown in it; install the plugins of the project: requirements.txt")
    shown = [card for _, _, card in sorted(placed, key=lambda each: each[:2])]
    suites = {card.file.demo.suite for card in shown if card.file.demo is not None}
    if len(suites) > 1:
        refuse("demo", f"the installed cards name several suites for it: {', '.join(sorted(suites))}; uninstall one")
    return shown, suites.pop()
