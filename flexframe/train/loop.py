"""The one training loop, for every model."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext

import torch
from torch import Tensor

from flexframe.data.loader import split
from flexframe.rng import Rng
from flexframe.tokens import Codes

from .console import Console
from .optim import learning_rate
from .run import Run
from .trainee import total


class Usage:
    """Which codebook entries were used since the last log line, counted on the device without a sync."""

    def __init__(self, size: int | None, device: torch.device) -> None:
        self.seen = None if size is None else torch.zeros(size, dtype=torch.bool, device=device)

    def update(self, codes: Codes) -> None:
        if self.seen is not None:
            first = codes.codes[:, :1]  # a present token stands in for absent ones
            present = torch.where(codes.keep[..., None], codes.codes, first)
            # features that are not finite have codes that are none; the loss tells of them, an index must not
            self.seen[present.clamp(0, len(self.seen) - 1).flatten()] = True

    def take(self) -> int | None:
        if self.seen is None:
            return None
        used = int(self.seen.sum())
        self.seen.zero_()
        return used


@torch.no_grad()
def held_out(run: Run) -> dict[str, float]:
    """The loss, without dropout, of the rows that are not trained on, if there are any."""
    sums = count = 0.0
    run.trainee.eval()
    for batch in run.feed.held_out():
        losses, _ = run.trainee(batch, step=run.step, rng=Rng(run.config.run.seed, batch.index))
        sums, count = sums + float(total(losses)) * len(batch), count + len(batch)
    run.trainee.train()
    return {"held_out": round(sums / count, 6)} if count else {}


def train(run: Run, console: Console) -> None:
    """Train from `run.step` to the last step; log, save and export on the way. Stops on a non-finite loss."""
    config, device, trainee, optimizer = run.config.run, run.device, run.trainee, run.optimizer
    bf16 = torch.autocast(device.type, torch.bfloat16) if config.precision == "bf16" else nullcontext()
    usage, owners = Usage(trainee.codebook, device), trainee.groups()
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
    trainee.train()
    run.hooks.flexframe_run_start(run=run)
    console.start(run)
    since, steps_since = time.perf_counter(), 0

    for batch in run.feed.batches(run.step):
        step = run.step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, peak=group["peak"], start=group["start"])
        optimizer.zero_grad(set_to_none=True)
        for part in split(batch, config.accumulate):
            with bf16:
                losses, codes = trainee(part, step=step, rng=Rng(config.seed, part.index, step))
                loss = total(losses) / config.accumulate
            loss.backward()
            usage.update(codes)
            for name, value in losses.items():
                sums[name] += value.detach().float().mean() / config.accumulate
            sums["loss"] += loss.detach()
        for owner, group in owners.items():
            name = "grad_norm" if owner == "model" else f"grad_norm/{owner}"
            sums[name] += torch.nn.utils.clip_grad_norm_(group.parameters, config.clip)
        optimizer.step()
        run.average.update(trainee.model, step)
        run.step, steps_since = step + 1, steps_since + 1

        last = run.step == config.steps
        logs = run.step % config.log_every == 0 or last
        saves = run.step % config.checkpoint_every == 0 or last
        if logs or saves:
            values = {name: float(value) / steps_since for name, value in sums.items()}  # the only host sync
            if not torch.tensor(list(values.values())).isfinite().all():  # so no checkpoint holds what is not finite
                raise FloatingPointError(
                    f"a loss or gradient is not finite between steps {run.step - steps_since} and {run.step}: {values};"
                    f" the last whole checkpoint is in {run.folder / 'checkpoints'}; try a lower run.lr"
                )
        if logs:
            now = time.perf_counter()
            line = {
                "step": run.step,
                **{name: round(value, 6) for name, value in values.items()},
                "lr": learning_rate(config, step),
                "codes_used": usage.take(),
                **held_out(run),
                "images_per_s": round(steps_since * config.batch_size / (now - since), 1),
            }
            run.log(line)
            console.show(line)
            run.hooks.flexframe_step_end(run=run, step=run.step, losses=values)
            sums.clear()
            since, steps_since = now, 0
        if saves:
            run.save()
    run.export(run.folder / "model.safetensors")
    console.stop()
