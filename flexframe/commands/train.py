"""`train`: a tokenizer or a prior, from a card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from flexframe.commands import complete
from flexframe.commands.common import names_and_settings, out, pick_device, refuse, say
from flexframe.commands.doubts import tell
from flexframe.commands.options import Device, Overrides

EXAMPLES = (
    "flexframe train flextok/digits-tiny quantizer=bsq run.steps=20 -o runs/bsq",
    "flexframe train flextok/photos-64 'run.data={type: folder, path: photos}' -o runs/mine",
    "flexframe train --resume runs/mine",
)


def train(
    card: Annotated[
        str | None,
        typer.Argument(help="A card's id, a file of that form, or a run's folder.", autocompletion=complete.models),
    ] = None,
    overrides: Overrides = None,
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run from its last whole checkpoint.")] = None,
    device: Device = "auto",
    overfit_batch: Annotated[
        bool, typer.Option("--overfit-batch", help="Train on the first batch alone, to see whether a run is healthy.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on though data or settings are not what they were."),
    ] = False,
) -> None:
    """Train a tokenizer or a prior.

    On several GPUs: `torchrun --nproc-per-node=8 -m flexframe train CARD ...`; see docs/training.md.
    """
    settings: list[str] = []
    if resume is not None:
        named, settings = names_and_settings([*([card] if card else []), *(overrides or [])])
        card = named[0] if named else None
        if overfit_batch:
            refuse("--overfit-batch", "is for a new run; a resumed one keeps its settings")
    if (card is None) == (resume is None):
        refuse("", "name a card to train, or a run's folder with --resume; one of the two")
    if resume is not None and folder is not None:
        refuse("--out", "a resumed run stays in its folder; leave -o out")
    from flexframe_registry.cards import card as find_card
    from flexframe_registry.doubts import check, of_card

    if card is not None:
        chosen = find_card(card)
        given = [*(overrides or []), *(["run.overfit_batch=true"] if overfit_batch else [])]
        config = chosen.train(given)  # a typo is told before torch is imported
        doubted = of_card(chosen, config)
        check(config, doubted)
        sampling = chosen.use(config)
        if os.environ.get("RANK", "0") == "0":  # torchrun's
            tell(doubted)
    from flexframe.terminal import Terminal
    from flexframe.train import distributed
    from flexframe.train.console import Console as TrainConsole
    from flexframe.train.continued import goes_on
    from flexframe.train.expected import to_expect
    from flexframe.train.loop import train as loop
    from flexframe.train.run import Run, timeout

    on = pick_device(distributed.local_device(device) if distributed.launched() else device)
    processes = distributed.join(on, timeout(resume, settings) if resume is not None else config.run.timeout)
    # where this process fails, `main` ends it: the others may not have, and leaving them would wait for them
    if card is not None and folder is not None:
        resume = folder if processes.told(processes.first and goes_on(folder, config, sampling)) else None
    if resume is not None:
        run = Run.resume(resume, on, processes, settings, accept_changes)
        if processes.first and run.changes.told:
            say.print(f"goes on with changes: {'; '.join(run.changes.told)}", markup=False, soft_wrap=True)
        if run.step >= run.config.run.steps and run.paths.model.is_file():
            run.note("finished", "")  # as it stood there
            run.close()
            if processes.first:
                out.print(f"{resume} is finished: {run.step} steps", soft_wrap=True)
            distributed.leave()
            return
    else:
        folder = processes.told(folder or fresh_folder(chosen.id))
        course = to_expect(chosen, config.model)
        run = Run.create(config, folder, on, sampling, processes, doubted, course, accept_changes)
        if processes.first and course is not None and not say.quiet:
            told = f"to see whether it is on course, beside the curve of {course}: flexframe plot {folder} -o plot.png"
            out.print(told, soft_wrap=True, markup=False, highlight=False)
    stopped = loop(run, TrainConsole(out if processes.first and not say.quiet else Terminal(quiet=True)))
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
    out.print(f"trained {run.step} steps; load it with flexframe.load({str(run.folder)!r}{also})", soft_wrap=True)


def fresh_folder(card: str) -> Path:
    """Name a folder under `runs` that is not there yet, for a run of this card."""
    base = Path("runs") / card.replace("/", "-")
    taken = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    return next(path for path in taken if not path.exists())
