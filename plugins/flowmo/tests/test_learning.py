"""Training on a CPU, and post-training through the sampling chain."""

import json

import pytest
import torch

from flexframe.train.run import Run
from flexframe_registry import cards

SHORT = ["run.batch_size=8", "run.optimizer.warmup=5", "run.log_every=2"]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.mark.slow
def test_the_loss_falls_and_post_training_betters_samples(tmp_path, go):
    card = cards().get("flowmo/digits-tiny")
    config = card.train(["run.steps=60", *SHORT])
    go(Run.create(config, tmp_path / "run", torch.device("cpu"), {"steps": 2}))
    found = [line["loss"] for line in losses(tmp_path / "run")]
    assert sum(found[-4:]) < 0.6 * sum(found[:4])
    start = [f"run.init={tmp_path / 'run'}", "run.freeze=[encoder, quantizer]", "decoder.chain=3"]
    after = [*SHORT, *start, "run.steps=24", "run.objectives=[l1]"]
    go(Run.create(card.train(after), tmp_path / "post", torch.device("cpu"), {"steps": 2}))
    found = [line["l1/l1"] for line in losses(tmp_path / "post")]
    assert sum(found[-3:]) < 0.95 * sum(found[:3])
