"""`flexframe.train(...)`: a run from Python, as the command makes it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from flexframe import threads
from flexframe.models.build import Model
from flexframe.store.load import load
from flexframe.terminal import Terminal
from flexframe.train.console import Console
from flexframe.train.continued import goes_on
from flexframe.train.expected import to_expect
from flexframe.train.loop import train as loop
from flexframe.train.run import Run
from flexframe_registry import ConfigError
from flexframe_registry.cards import card as find_card
from flexframe_registry.doubts import check, of_card

WIDE = 240
"""Columns of a line where output is no terminal."""


def train(
    card: str | Path | None = None,
    *settings: str,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | torch.device = "auto",
) -> Model:
    """Train a tokenizer or a prior to its end, and return the model with the averaged weights.

    Progress is printed as the command prints it, and the folder holds all that `flexframe train` leaves. One process,
    on one device; several GPUs take torchrun and the command.

    Args:
        card: a card's id, a file of that form, or a run's folder whose settings it begins with.
        settings: `key.path=value`, as on the command line: `"quantizer=vq"`, `"run.steps=200"`; of a resumed run those
            that it may go on with.
        out: a new run's folder; where it holds this very run, that goes on.
        resume: in place of `card` and `out`, a run's folder, to go on from its last whole checkpoint.
        device: a torch device; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: what is wrong with the card or the settings; the folder holds another run, or one in use; there are
            doubts and the run is strict.
        KeyboardInterrupt: it was stopped, by Ctrl-C or a signal; what was trained is saved, and `resume` goes on.
    """
    terminal = Terminal(width=None if sys.stdout.isatty() else WIDE)
    on = threads.device(device)
    if resume is not None:
        if out is not None:
            raise ConfigError.at("out", "a resumed run stays in its folder; leave it out")
        given = [*([] if card is None else [str(card)]), *settings]
        run = Run.resume(Path(resume), on, settings=given)
    elif card is None or out is None:
        raise ConfigError.at("card" if card is None else "out", "is not given; a new run has a card and a folder `out`")
    else:
        run = _begun(str(card), settings, Path(out), on, terminal)
    if run.step < run.config.run.steps or not run.paths.model.is_file():
        stopped = loop(run, Console(terminal))
        if stopped is not None:
            text = f"stopped by {stopped} after step {run.step} of {run.config.run.steps}, which is saved; go on with "
            raise KeyboardInterrupt(f"{text}flexframe.train(resume={str(run.folder)!r})")
    else:
        run.note("finished", "")  # as it stood there
        run.close()
    return load(run.folder, device=on, kind=None)


def _begun(name: str, settings: Sequence[str], out: Path, on: torch.device, terminal: Terminal) -> Run:
    """A fresh run, its doubts told; or that of the folder, where it is the same."""
    chosen = find_card(name)
    config = chosen.train(list(settings))
    doubted = of_card(chosen, config)
    check(config, doubted)
    for path, text in doubted:
        terminal.print(f"doubt: {path}: {text}", style="yellow", markup=False, soft_wrap=True)
    if goes_on(out, config, chosen.use(config)):
        return Run.resume(out, on)
    course = to_expect(chosen, config.model)
    return Run.create(config, out, on, chosen.use(config), doubted=doubted, expected=course)
