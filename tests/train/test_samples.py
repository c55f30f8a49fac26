"""Pictures while a model trains, and those who watch it elsewhere."""

import importlib.util
import json
import sys
import types

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flexframe.train import checkpoint
from flexframe.train import run as runs
from flexframe.train.observer import grouped
from flexframe.train.run import Run
from flexframe_registry import ConfigError, hookimpl, manager

DRAWING = "quantizer={type: toy, levels: [8, 8, 8], noise: 0.1, average: true}"
"""Draws from the global random state at every step."""
SAMPLES = ("run.steps=6", "run.checkpoint_every=3", "run.log_every=2", "run.sample_every=2", "run.sample_count=3",
           DRAWING)  # fmt: skip


class Stop:
    @hookimpl
    def flexframe_checkpoint_saved(self, run, path):
        if run.step == 3:
            raise KeyboardInterrupt


def state(run):
    return load_file(run.folder / "model.safetensors")


def lines(run):
    drop = {"images_per_s", "data_wait"}
    told = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in drop} for line in told]


def test_pictures_are_drawn_and_training_does_not_notice(create, go):
    with_samples, without = (go(create(n, *SAMPLES, *m)) for n, m in (("a", ()), ("b", ("run.sample_every=0",))))
    assert lines(with_samples) == lines(without)
    assert all(torch.equal(value, state(without)[name]) for name, value in state(with_samples).items())
    ends = [torch.equal(a, b) for a, b in zip(with_samples._random_states().values(),
                                              without._random_states().values(), strict=True)]  # fmt: skip
    assert all(ends)
    found = sorted(path.name for path in (with_samples.folder / "samples").iterdir())
    assert found == [f"step-0000000{step}.png" for step in (2, 4, 6)]
    first, last = (Image.open(with_samples.folder / "samples" / name).convert("RGB") for name in (found[0], found[-1]))
    assert first.size == last.size
    assert first.tobytes() != last.tobytes()
    assert not (without.folder / "samples").exists()


@pytest.mark.slow
def test_a_resumed_run_with_samples_is_bit_exact(create, go):
    whole, run, plugin = go(create("whole", *SAMPLES)), create("cut", *SAMPLES), Stop()
    manager().register(plugin)
    try:
        with pytest.raises(KeyboardInterrupt):
            go(run)
    finally:
        manager().unregister(plugin)
    assert checkpoint.find_last(run.folder / "checkpoints").name == "step-00000003"
    resumed = go(Run.resume(run.folder, torch.device("cpu")))
    assert lines(resumed) == lines(whole)
    assert all(torch.equal(value, state(whole)[name]) for name, value in state(resumed).items())
    pictures = [(each.folder / "samples/step-00000006.png").read_bytes() for each in (whole, resumed)]
    assert pictures[0] == pictures[1]


# --- elsewhere ---------------------------------------------------------------------------------------------------


def test_a_missing_package_is_told_before_anything_is_made(create, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(runs, "find_spec", lambda name: None if name in missing else find_spec(name))
    missing = {"tensorboard", "wandb", "timm"}
    settings = {
        "run.observers=tensorboard": r"run\.observers\.0: .*pip install 'flexframe\[tensorboard\]'",
        "run.observers=[{type: wandb, project: x}]": r"run\.observers\.0: .*pip install 'flexframe\[wandb\]'",
        "run.optimizer=lion": r"run\.optimizer: 'lion' needs the package timm: pip install 'flexframe\[lion\]'",
    }
    for setting, told in settings.items():
        with pytest.raises(ConfigError, match=told):
            create("run", setting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("loss", "train/loss"), ("decoder/flow", "train/decoder/flow"), ("held_out", "val/loss"),
        ("lr", "optimizer/lr"), ("grad_norm", "optimizer/grad_norm"),
        ("grad_norm/decoder", "grad_norm/decoder"),
        ("codes_used", "codes/used"), ("images_per_s", "speed/images_per_s"), ("probe/tokens", "probe/tokens"),
    ],
)  # fmt: skip
def test_trackers_have_numbers_in_groups(name, there):
    assert grouped({name: 1.5}) == {there: 1.5}


def test_tensorboard_and_wandb_are_told_what_is_logged(create, go, monkeypatch):
    told = {"tensorboard": [], "wandb": []}

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            self.begun = (folder, purge_step)

        def add_scalar(self, name, value, step):
            told["tensorboard"].append((step, name, value))

        def add_image(self, name, image, step, dataformats):
            told["tensorboard"].append((step, name, image.shape[2]))

        def flush(self):
            pass

        def close(self):
            told["tensorboard"].append("closed")

    def init(**settings):
        told["wandb"].append(settings)
        log = lambda line, step: told["wandb"].append((step, line))  # noqa: E731
        return types.SimpleNamespace(log=log, finish=lambda exit_code: told["wandb"].append(("end", exit_code)))

    monkeypatch.setattr(runs, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Image=lambda path: ("image", path)))
    run = go(create("run", "run.steps=4", "run.log_every=2", "run.sample_every=4",
                    "run.observers=[tensorboard, {type: wandb, project: tokens}]"))  # fmt: skip
    logged = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert (4, "train/loss", logged[1]["loss"]) in told["tensorboard"]
    assert told["tensorboard"].pop() == "closed"
    assert [entry for entry in told["tensorboard"] if entry[1] == "samples"] == [(4, "samples", 3)]
    settings, *steps, end = told["wandb"]
    assert end == ("end", 0)
    assert (settings["project"], settings["mode"], settings["name"]) == ("tokens", "offline", "run")
    assert [step for step, _ in steps] == [2, 4, 4]
    assert steps[0][1]["train/loss"] == logged[0]["loss"]
    assert steps[1][1] == {"samples": ("image", str(run.folder / "samples/step-00000004.png"))}
    assert steps[2][1]["train/loss"] == logged[1]["loss"]


def test_a_run_is_sent_to_wandb_under_its_own_name_and_the_model_kept_there(create, go, monkeypatch):
    told, kept = [], []

    class Artifact:
        def __init__(self, name, type):
            self.name, self.kind, self.files = name, type, []

        def add_file(self, path):
            self.files.append(path)

    def init(**settings):
        told.append(settings)
        return types.SimpleNamespace(
            log=lambda line, step: None, finish=lambda exit_code: None, log_artifact=kept.append
        )

    monkeypatch.setattr(runs, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Artifact=Artifact))
    fields = "project: tokens, entity: lab, name: my run, tags: [toy, small], mode: online, artifact: true"
    run = go(create("run", "run.steps=2", f"run.observers=[{{type: wandb, {fields}}}]"))
    (settings,) = told
    assert {key: settings[key] for key in ("entity", "name", "tags", "mode", "resume")} == {
        "entity": "lab", "name": "my run", "tags": ["toy", "small"], "mode": "online", "resume": "allow",
    }  # fmt: skip
    (artifact,) = kept
    assert (artifact.name, artifact.kind, artifact.files) == (
        "my-run",
        "model",
        [str(run.folder / "model.safetensors")],
    )
