"""What a run's folder says of it, and the share of time spent waiting for data."""

import json
import math
import os
import time

import pytest
import torch

from flexframe.lock import Lock
from flexframe.train import history
from flexframe.train.waits import Waits
from flexframe_registry import ConfigError


def test_a_finished_run_says_so_and_what_it_logged(create, go):
    run = create()
    go(run)
    found = history.read(run.folder)
    assert (found.state, found.step, found.steps, found.model) == (
        "finished",
        run.step,
        run.step,
        "toy toy toy 8",
    )
    assert found.last["codes_used"] + found.last["codes_dead"] == math.prod(run.trainee.codebooks)
    assert 0 < found.last["data_wait"] < 1
    assert found.age < 60


def test_a_failed_run_says_why(create, go, monkeypatch):
    run = create()

    def fail(line):
        raise ValueError("the log broke")

    monkeypatch.setattr(run, "log", fail)
    with pytest.raises(ValueError, match="broke"):
        go(run)
    found = history.read(run.folder)
    assert (found.state, found.why) == ("failed", "ValueError: the log broke")


def write(folder, lines=(), **run):
    folder.mkdir(parents=True)
    parts = {part: {"type": part[:2]} for part in history.PARTS}
    (folder / "config.json").write_text(
        json.dumps({"model": {**parts, "length": 8}, "run": {"steps": 9, "batch_size": 4, **run}})
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')
    return folder


def test_a_killed_run_has_failed_and_a_living_one_runs(tmp_path):
    folder = write(tmp_path / "a", [{"step": 5, "loss": 1.0}])
    lock = Lock.of_run(folder)
    lock.take()
    assert history.read(folder).state == "running"
    holder = json.loads((folder / "lock").read_text())
    lock.release()
    (folder / "lock").write_text(json.dumps({**holder, "began": "another boot"}))
    found = history.read(folder)
    assert (found.state, found.step) == ("failed", 5)
    assert "was killed" in found.why
    (folder / "lock").write_text(json.dumps({**holder, "host": "elsewhere"}))
    assert history.read(folder).state == "running"
    os.utime(folder / "lock", (0, 0))
    assert history.read(folder).state == "failed"


def test_runs_are_found_wherever_they_lie_and_models_are_none(tmp_path):
    for name in ("b", "a/deep"):
        write(tmp_path / name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"hidden_size": 8}')
    assert list(history.find(tmp_path)) == [tmp_path / "a/deep", tmp_path / "b"]
    assert history.read(tmp_path / "b").state == "stopped"
    with pytest.raises(ConfigError, match="holds no run"):
        history.read(tmp_path)


def test_waiting_is_measured_and_nothing_else():
    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield i

    waits, taken = Waits(torch.device("cpu")), []
    for i in waits.over(slow()):
        taken.append(i)
        time.sleep(0.1)
    assert taken == [0, 1, 2]
    assert 0.15 <= waits.take() < 0.28
    assert waits.take() == 0
