"""The one training loop, for every model."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from flexframe.data.loader import split
from flexframe.data.workers import killed
from flexframe.files import write_json
from flexframe.parts import Part
from flexframe.rng import Rng
from flexframe.train.alarms import ALARMS, Alarmed
from flexframe.train.console import Console
from flexframe.train.distributed import Elsewhere
from flexframe.train.gradients import nothing_learns
from flexframe.train.optim import learning_rate
from flexframe.train.optim import step as step_optimizer
from flexframe.train.probe import due, probe
from flexframe.train.run import Run
from flexframe.train.samples import draw
from flexframe.train.stopping import Stopping
from flexframe.train.tally import Reading
from flexframe.train.trainee import means, summed, total
from flexframe.train.waits import Waits
from flexframe.train.watch import Watch

HOPELESS = 10
"""Steps in a row that may be skipped, where they may."""


@torch.no_grad()
def held_out(run: Run, watch: Watch) -> dict[str, float]:
    """The loss, without dropout, of the rows that are not trained on, if there are any; each process takes all."""
    sums = count = 0.0
    run.trainee.eval()
    for batch in run.feed.held_out():
        losses, _ = run.trainee(batch, step=run.step, rng=Rng(run.config.run.seed, batch.index))
        sums, count = sums + float(total(losses)) * len(batch), count + len(batch)
        watch.at(run.step, "logging and saving")
    run.trainee.train()
    return {"held_out": round(sums / count, 6)} if count else {}


def train(run: Run, console: Console) -> str | None:
    """Train from `run.step` to the last step; log, save and export on the way.

    Returns:
        the name of the signal that stopped it, once what was trained is saved; None at the last step.

    Raises:
        FloatingPointError: a loss or gradient was not finite; no checkpoint holds what came of it.
        ChildProcessError: a process that reads data for this one was killed.
        Elsewhere: another process failed first.
        TimeoutError: there was no progress for `run.timeout`; several processes end instead, and tell who is missing.
    """
    try:
        with Stopping(run.processes) as stopping, Watch(run.processes, run.config.run.timeout, run.broken_off) as watch:
            stopped = _train(run, console, stopping, watch)
        run.end("finished" if stopped is None else "stopped", stopped or "")
        return stopped
    except BaseException as error:
        other = killed(error) or run.processes.elsewhere(error, run.failed())
        if not isinstance(other, Elsewhere) or run.processes.first:
            run.end("failed", run.processes.told_by(other or error))
        if other is not None:
            raise other from None
        raise
    finally:
        console.stop()
        run.close()


def _train(run: Run, console: Console, stopping: Stopping, watch: Watch) -> str | None:
    config, trainee, optimizer, tally = run.config.run, run.trainee, run.optimizer, run.tally
    first = run.processes.first
    trainee.train()
    if first:
        run.begin()
    console.start(run)
    since, begun, first_step = time.perf_counter(), run.step, run.step

    watch.at(run.step, "waiting for data")
    waits = Waits(run.device)
    bounded = [module for module in trainee.modules() if isinstance(module, Part)]
    for batch in waits.over(run.feed.batches(run.step)):
        step = run.step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, scale=group["scale"], start=group["start"])
        optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        before = [buffer.clone() for buffer in trainee.buffers()] if tally.skip else []
        parts, seen = split(batch, config.accumulate), []
        for number, part in enumerate(parts, 1):
            watch.at(step, "forward")
            with _gradients_meet(run, last=number == len(parts)):
                with _precision(run):
                    losses, codes = run.trained(part, step=step, rng=Rng(config.seed, part.index, step))
                    each = means(losses)
                    loss = _shared(summed(each), config.accumulate)
                if not loss.requires_grad:
                    raise nothing_learns()
                watch.at(step, "backward")
                torch.autograd.backward(loss)
            seen.append(codes)
            told = {name: _shared(mean.detach(), config.accumulate) for name, mean in each.items()}
            told["loss"] = loss.detach()
            values = {name: values[name] + value if name in values else value for name, value in told.items()}
        if step == first_step and not run.gradients.reach():
            raise nothing_learns()
        watch.at(step, "update")
        skip = tally.add({**values, **run.gradients.clip()})
        for codes in seen:
            run.usage.update(codes, skip)
        step_optimizer(optimizer, skip, bounded)
        if skip is not None:
            _undo(trainee, before, skip)
        run.average.update(step)
        run.step = step + 1

        watch.at(step, "logging and saving")
        stopped = stopping.asked()
        last = run.step == config.steps
        logs = run.step % config.log_every == 0 or last
        saves = run.step % config.checkpoint_every == 0 or last or stopped is not None
        samples = config.sample_every > 0 and (run.step % config.sample_every == 0 or last)
        if logs or saves or samples:
            reading = tally.read()  # the only host sync
            _check(run, reading)  # so no checkpoint holds what is not finite
        if samples:
            since += draw(run, partial(watch.at, step, "logging and saving"))  # no part of the pace of training
            picture = run.paths.sample(run.step)
            if picture.is_file():
                run.observed(methodcaller("picture", run.step, picture))
        if logs:
            now = time.perf_counter()
            line = {
                "step": run.step,
                **{name: None if value is None else round(value, 6) for name, value in reading.values.items()},
                **({"skipped": reading.skipped} if tally.skip else {}),
                "lr": learning_rate(config, step),
                **run.usage.take(),
                **held_out(run, watch),
                **(probe(run, parts[0]) if due(run.step, config.log_every) else {}),
                "images_per_s": round((run.step - begun) * config.batch_size / (now - since), 1),
                "data_wait": round(waits.take() / (now - since), 4),
            }
            tally.reset()
            since, begun = now, run.step
            alarms = run.alarms.look(line) if first else []
            if first:
                run.log({**line, ALARMS: alarms} if alarms else line)
                console.show(line, [alarm["text"] for alarm in alarms])
                losses = {name: value for name, value in reading.values.items() if value is not None}
                run.tell("flexframe_step_end", step=run.step, losses=losses)
                known = {name: value for name, value in line.items() if name != "step" and value is not None}
                run.observed(methodcaller("line", run.step, known))
            _strict(run, alarms)
        if saves:
            run.save()
        if stopped is not None and not last:
            return stopped
        watch.at(run.step, "waiting for data")
    run.export(run.paths.model)
    return None


def _strict(run: Run, alarms: Sequence[Mapping[str, Any]]) -> None:
    """Raise `Alarmed` in all processes where the first one's alarms are errors, and some went off."""
    if not run.config.run.strict:
        return
    told = run.processes.told([str(alarm["text"]) for alarm in alarms])
    if told:
        kept = f"run.strict ends the run; the last whole checkpoint is in {run.paths.checkpoints}"
        raise Alarmed(f"at step {run.step}: {'; also '.join(told)}. {kept}")


def _shared(value: Tensor, parts: int) -> Tensor:
    """A part's share of a step's value."""
    return value / parts if parts > 1 else value


def _precision(run: Run) -> AbstractContextManager[object]:
    bf16 = run.config.run.precision == "bf16"
    return torch.autocast(run.device.type, torch.bfloat16) if bf16 else nullcontext()


def _gradients_meet(run: Run, last: bool) -> AbstractContextManager[object]:
    """Gradients of several processes are averaged once a step, behind the last part. Shards are each time: to keep
    whole gradients until then is what sharding avoids."""
    return nullcontext() if last or not isinstance(run.trained, DistributedDataParallel) else run.trained.no_sync()


@torch.no_grad()
def _undo(trainee: torch.nn.Module, before: list[Tensor], skip: Tensor) -> None:
    """Bring back what a skipped step's forward pass has changed: codebooks, running statistics."""
    for buffer, value in zip(trainee.buffers(), before, strict=True):
        buffer.copy_(torch.where(skip.bool(), value, buffer))


def _check(run: Run, reading: Reading) -> None:
    """Raise `FloatingPointError` where something was not finite and no step may be skipped, or too many were."""
    if reading.first is None or (run.tally.skip and reading.in_a_row < HOPELESS):
        return
    step = run.step - run.tally.steps + reading.first
    place = run.paths.nonfinite(step + 1)
    if run.processes.first:
        write_json(place, {"step": step + 1, "parts": reading.troubles, "index": run.feed.rows(step)})
    raise FloatingPointError(_advice(run, reading, step, place))


def _advice(run: Run, reading: Reading, step: int, place: Path) -> str:
    trouble = f"{', '.join(reading.troubles)} {'is' if len(reading.troubles) == 1 else 'are'} not finite"
    if run.tally.skip:
        text = f"{reading.in_a_row} steps in a row were skipped: {trouble}"
        advice = "try a lower run.optimizer.lr"
    else:
        text = f"{trouble} at step {step + 1}"
        advice = "try a lower run.optimizer.lr, or run.nonfinite=skip for single bad steps"
    kept = f"the batch's rows are in {place}, the last whole checkpoint in {run.paths.checkpoints}"
    return f"{text}; {kept}; {advice}"
