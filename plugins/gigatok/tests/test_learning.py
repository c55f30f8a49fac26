"""Training on a CPU."""

import json

import pytest
import torch

from flexframe.train.run import Run
from flexframe_registry import cards


@pytest.mark.slow
def test_the_loss_falls(tmp_path, go):
    given = ["run.steps=80", "run.batch_size=8", "run.optimizer.warmup=10", "run.log_every=5"]
    config = cards().get("gigatok/digits-tiny").train(given)
    go(Run.create(config, tmp_path / "run", torch.device("cpu"), {}))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first, *_, last = (line for line in lines if "loss" in line)
    assert last["loss"] < 0.5 * first["loss"]
    assert last["mse.0/mse"] < 0.5 * first["mse.0/mse"]
