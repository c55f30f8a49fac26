"""A step of the training loop against one of a plain loop: same model, optimizer, data and draws, equal weights behind.

    taskset -c 0 python benchmarks/speed/step.py -o benchmarks/results/speed/step.json

The plain loop does what trains and nothing else: it takes rows of a tensor in memory, sets the rate, passes forward and
backward, clips, steps. It takes turns with the loop of `flexframe train`, step by step, in one process; times are those
of the processor. `torch's draws` is the same plain loop with torch's generator in place of the counter-based one. What
the loop does beyond is timed call by call, as a share of a plain step.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from time import process_time
from typing import Any

import torch
from rich.console import Console as Terminal
from torch import Tensor

from flexframe.data.loader import steps as rows_of
from flexframe.files import write_json
from flexframe.provenance import processor
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train import loop
from flexframe.train.console import Console
from flexframe.train.optim import create_optimizer, learning_rate
from flexframe.train.run import Run
from flexframe.train.stopping import Stopping
from flexframe.train.trainee import total
from flexframe_registry.cards import card

CASES = {
    "flextok/digits-tiny": ["run.feed.preload=true"],
    "flextok/scenes-64": [
        "run.data={type: scenes, split: train, complexity: 1, count: 512}", "run.batch_size=32",
        "run.feed.preload=true", "run.feed.keep_latents=true",
        "run.init={from: flextok/scenes-64, parts: [codec]}",
    ],
}  # fmt: skip
WARMUP = 20
"""Steps that are not counted: latents are kept, caches are filled."""


class TorchRng(Rng):
    """Draws of torch's own generator, whatever the sample."""

    def uniform(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        return torch.rand(len(self.index), *shape)

    def normal(self, purpose: str, shape: Sequence[int] = ()) -> Tensor:
        return torch.randn(len(self.index), *shape)

    def integers(self, purpose: str, high: int, shape: Sequence[int] = ()) -> Tensor:
        return torch.randint(high, (len(self.index), *shape))

    def shared(self) -> TorchRng:
        return TorchRng(self.seed, torch.zeros(1, dtype=torch.long), self.step)


class Plain:
    """A plain loop over what a run has built, with tensors of its own."""

    def __init__(self, run: Run, draws: type[Rng]) -> None:
        self.run, self.draws, self.config = run.config.run, draws, run.config.run
        trainee = deepcopy(run.trainee)
        self.model, self.optimizer = trainee.model.train(), create_optimizer(trainee, self.config)
        self.learned = [p for p in self.model.parameters() if p.requires_grad]
        images = torch.stack([sample.image for sample in run.feed.source.samples(range(len(run.feed)))]) / 255
        with torch.no_grad():
            parts = images.split(64)
            self.data = torch.cat(
                [self.model.codec.encode(each, rng=Rng(0, torch.arange(len(each)))) for each in parts]
            )
        rows = islice(rows_of(len(images), self.config, 0), self.config.steps)
        self.rows = torch.tensor(list(rows))

    def step(self, number: int) -> None:
        """Train on the batch of a number."""
        index = self.rows[number]
        rng = self.draws(self.config.seed, index, number)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, number)
        self.optimizer.zero_grad()
        total(self.model(Batch(index, latents=self.data[index]), rng=rng).losses).backward()
        torch.nn.utils.clip_grad_norm_(self.learned, self.config.optimizer.clip)
        self.optimizer.step()


class Turns:
    """Stands where the loop's watch stands; between two steps of the loop, each plain loop takes one."""

    def __init__(self, plain: dict[str, Plain]) -> None:
        self.plain = plain
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.beyond: dict[str, list[float]] = defaultdict(list)
        self.since, self.spent = process_time(), 0.0

    def at(self, step: int, stage: str) -> None:
        """Note that a stage of a step begins; the loop's watch calls it."""
        if stage != "waiting for data":
            return
        if step:
            self.seconds["flexframe"].append(process_time() - self.since)
        for name, each in self.plain.items():
            if step < len(each.rows):
                begun = process_time()
                each.step(step)
                self.seconds[name].append(process_time() - begun)
        self.since = process_time()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a call so that its seconds are added to those of its step."""

        def timer(*args: Any, **kwargs: Any) -> Any:
            begun = process_time()
            result = call(*args, **kwargs)
            spent, step = self.beyond[name], len(self.seconds["flexframe"])
            spent += [0.0] * (step + 1 - len(spent))
            spent[step] += process_time() - begun
            return result

        return timer


def watched(run: Run, turns: Turns) -> None:
    """Time what the loop does beyond training."""
    run.average.update = turns.timed("weight average", run.average.update)  # type: ignore[method-assign]
    run.gradients.clip = turns.timed("norms by part, clipping", run.gradients.clip)  # type: ignore[method-assign]
    run.tally.add = turns.timed("tally", run.tally.add)  # type: ignore[method-assign]
    run.usage.update = turns.timed("usage of codes", run.usage.update)  # type: ignore[method-assign]
    kept = getattr(run.trainee, "latents", None)
    if kept is not None:
        kept.prepare = turns.timed("kept latents", kept.prepare)
    batches = run.feed.batches

    def fed(start: int) -> Any:
        waiting = batches(start)
        following = turns.timed("batches", lambda: next(waiting, None))
        while (batch := following()) is not None:
            yield batch

    run.feed.batches = fed  # type: ignore[method-assign]
    run.log = turns.timed("log line", run.log)  # type: ignore[method-assign]
    run.usage.take = turns.timed("log line", run.usage.take)  # type: ignore[method-assign]
    run.tally.read = turns.timed("log line", run.tally.read)  # type: ignore[method-assign]


def measure(name: str, settings: Sequence[str], steps: int, folder: Path) -> dict[str, Any]:
    """Train a card for so many steps beside the plain loops.

    Raises:
        ValueError: the loops' weights differ.
    """
    fixed = [f"run.steps={steps}", "run.checkpoint_every=1000000"]
    run = Run.create(card(name).train([*settings, *fixed]), folder, torch.device("cpu"), {})
    run.save, run.export = lambda: folder, lambda path: None  # type: ignore[method-assign]
    sides = {"plain": Plain(run, Rng), "plain, torch's draws": Plain(run, TorchRng)}
    turns = Turns(sides)
    watched(run, turns)
    console = Console(Terminal(quiet=True))
    with Stopping(run.processes) as stopping:
        loop._train(run, console, stopping, turns)  # type: ignore[arg-type]  # the loop itself, with another watch
    console.stop()
    run.close()
    for (key, value), other in zip(
        run.trainee.model.state_dict().items(), sides["plain"].model.state_dict().values(), strict=True
    ):
        if not torch.equal(value, other):
            raise ValueError(f"{name}: after {steps} steps the loops' {key} differ")
    of = {side: [1000 * s for s in seconds[WARMUP:]] for side, seconds in turns.seconds.items()}
    plain, torchs = (median(of[side]) for side in sides)
    beyond = {what: 1000 * sum(spent[WARMUP:]) / (steps - 1 - WARMUP) for what, spent in turns.beyond.items()}
    return {
        "card": name,
        "settings": list(settings),
        "steps": steps,
        "ms_a_step": {side: round(median(each), 3) for side, each in of.items()},
        "quartiles_ms": {side: [round(q, 3) for q in quantiles(each)[::2]] for side, each in of.items()},
        "ratio": round(median(of["flexframe"]) / plain, 3),
        "ratio_to_torchs_draws": round(median(of["flexframe"]) / torchs, 3),
        "ratio_of_means": round(sum(of["flexframe"]) * len(of["plain"]) / len(of["flexframe"]) / sum(of["plain"]), 3),
        "percent_of_a_plain_step": {what: round(100 * ms / plain, 2) for what, ms in sorted(beyond.items())},
        "equal": True,
    }


def main() -> None:
    """Measure the cases, print and write the file, if one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cards", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("-o", "--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.cards:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(name, CASES[name], args.steps, Path(folder) / "run"))
        row = rows[-1]
        print(f"{name}: {row['ms_a_step']} ms a step, quartiles {row['quartiles_ms']}; {row['ratio']} of plain,")
        print(f"  {row['ratio_to_torchs_draws']} of plain with torch's draws, {row['ratio_of_means']} of means")
        print(f"  of a plain step, %: {row['percent_of_a_plain_step']}", flush=True)
    if args.out:
        about = {"torch": torch.__version__, "processor": processor(torch.device("cpu")), "threads": 1}
        write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
