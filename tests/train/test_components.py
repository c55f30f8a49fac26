"""A stranger's feed, transform, observer and optimizer: a config and a class each, and nothing else."""

import json

import pytest

pytestmark = pytest.mark.slow

STRANGER = """
from typing import Literal
from flexframe_registry import Component, FeedConfig, ObserverConfig, OptimizerConfig, TransformConfig, hookimpl

class Same(FeedConfig):
    type: Literal["same"] = "same"
    grey: float = 0.5

class Darker(TransformConfig):
    type: Literal["darker"] = "darker"
    by: float = 0.5

class Notes(ObserverConfig):
    type: Literal["notes"] = "notes"

class Signs(OptimizerConfig):
    type: Literal["signs"] = "signs"

@hookimpl
def flexframe_components():
    return [Component(each, f"stranger_parts:{each.__name__}") for each in (Same, Darker, Notes, Signs)]
"""
PARTS = """
import json
import torch
from flexframe.data.loader import steps
from flexframe.data.transform import Transform, transformed
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.feeds.base import Feed
from flexframe.train.observer import Observer
from flexframe.train.optim import Optimizer
from flexframe_registry import catalogue

class Same(Feed):
    def __len__(self):
        return 40

    def batches(self, start):
        moves = [catalogue().build(each) for each in self.training.run.transforms]
        for step, rows in enumerate(steps(len(self), self.training.run, start, self.share), start):
            index = torch.tensor(rows)
            images = torch.full((len(rows), 3, 16, 16), self.config.grey)
            yield Batch(index, transformed(images, moves, Rng(0, index, step)))

class Darker(Transform):
    def __call__(self, images, *, rng):
        return images * self.config.by

class Notes(Observer):
    def start(self, folder, step, training):
        self.path = folder.path / "notes.jsonl"
        self.tell("start", step)

    def line(self, step, values):
        self.tell("line", step, sorted(values)[:1])

    def end(self, state, why):
        self.tell(state, why)

    def tell(self, *words):
        with self.path.open("a") as file:
            file.write(json.dumps(words) + "\\n")

class Signs(Optimizer):
    def create(self, groups, *, fused):
        return Sign([group.entry() for group in groups], {"lr": self.config.lr})

class Sign(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())
"""
TRAIN = """
import io, sys
from pathlib import Path
import torch
from rich.console import Console as Terminal
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import cards

config = cards().get("toy/digits-tiny").train(sys.argv[2:])
run = Run.create(config, Path(sys.argv[1]), torch.device("cpu"), {})
print(next(run.feed.batches(0)).images.unique().tolist())
train(run, Console(Terminal(file=io.StringIO())))
"""


def test_a_stranger_s_components_feed_change_observe_and_step_a_run(install, python, tmp_path):
    install("stranger", STRANGER)
    (tmp_path / "stranger_parts.py").write_text(PARTS)
    settings = ["run.steps=2", "run.batch_size=8", "run.log_every=1", "run.optimizer={type: signs, warmup: 0}",
                "run.feed={type: same, grey: 0.8}", "run.transforms={type: darker, by: 0.25}",
                "run.observers=notes"]  # fmt: skip
    done = python(TRAIN, tmp_path / "run", *settings)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [pytest.approx(0.2)]
    told = [json.loads(line) for line in (tmp_path / "run/notes.jsonl").read_text().splitlines()]
    assert [each[:2] for each in told] == [["start", 0], ["line", 1], ["line", 2], ["finished", ""]]
    config = json.loads((tmp_path / "run/config.json").read_text())["run"]
    assert (config["feed"], config["observers"]) == ({"type": "same", "grey": 0.8}, [{"type": "notes"}])
