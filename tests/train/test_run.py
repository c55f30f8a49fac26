"""Whole runs: reproducible, resumable, stopped by what is not finite."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import flexframe as front
from flexframe.train import checkpoint
from flexframe.train.observer import Observer
from flexframe.train.run import Run
from flexframe_registry import ConfigError, TrainConfig, catalogue, hookimpl, manager

LONGER = ("run.steps=12", "run.transforms=[flip, {type: shift, pixels: 1}]")
DRAWING = ("quantizer.noise=0.1", "quantizer.average=true")
KILL = """
import io, os, sys
from pathlib import Path
import torch
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import cards, hookimpl, manager
from rich.console import Console as Terminal

class Killer:
    @hookimpl
    def flexframe_step_end(self, run, step, losses):
        if step == 5:
            os.kill(os.getpid(), 9)

torch.set_num_threads(int(sys.argv[2]))
manager().register(Killer())
config = cards().get("toy/digits-tiny").train(sys.argv[3:])
train(Run.create(config, Path(sys.argv[1]), torch.device("cpu"), {"steps": 2}), Console(Terminal(file=io.StringIO())))
"""


class Stop:
    """Raises at the end of a step."""

    def __init__(self, step):
        self.step = step

    @hookimpl
    def flexframe_step_end(self, run, step, losses):
        if step == self.step:
            raise KeyboardInterrupt("stopped")


@pytest.fixture
def register():
    """Registers observers, and takes them away again."""
    taken = []

    def add(plugin):
        manager().register(plugin)
        taken.append(plugin)
        return plugin

    yield add
    for plugin in taken:
        manager().unregister(plugin)


def resume(folder):
    return Run.resume(folder, torch.device("cpu"))


def lines(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def assert_equal_runs(one, other):
    """Equal to the last bit: the exported model, all that is trained, the optimizer, what was logged."""
    assert one.step == other.step
    pairs = [
        (load_file(one.folder / "model.safetensors"), load_file(other.folder / "model.safetensors")),
        (one.trainee.state_dict(), other.trainee.state_dict()),
        (checkpoint.optimizer_tensors(one.optimizer), checkpoint.optimizer_tensors(other.optimizer)),
    ]
    for a, b in pairs:
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
    drop = {"images_per_s", "data_wait"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in lines(one)] == [
        {k: v for k, v in line.items() if k not in drop} for line in lines(other)
    ]


# --- what a run leaves -------------------------------------------------------------------------------------------


def test_a_run_leaves_its_config_its_origin_its_log_and_its_model(create, go):
    run = go(create("run", "quantizer.levels=[4, 4, 4]"))
    resolved = json.loads((run.folder / "config.json").read_text())
    assert resolved.pop("checksum")
    assert resolved.pop("sampling") == {"steps": 2}
    assert TrainConfig.read(resolved) == run.config
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert {"flexframe", "flexframe-toy", "torch", "python"} <= manifest["versions"].keys()
    assert manifest["parameters"]["decoder"] == sum(p.numel() for p in run.trainee.model.decoder.parameters())
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert {"loss", "decoder/flow", "grad_norm", "lr", "codes_used", "images_per_s"} <= lines(run)[0].keys()
    found = front.load(run.folder)
    assert (found.config, found.sampling.steps) == (run.config.model, 2)


def test_a_runs_threads_are_those_that_it_names_and_its_manifest_tells_them(create):
    before = torch.get_num_threads()
    try:
        run = create("run", f"run.threads={before + 1}")
        run.close()
        assert torch.get_num_threads() == before + 1
        assert json.loads((run.folder / "manifest.json").read_text())["host"]["threads"] == before + 1
    finally:
        torch.set_num_threads(before)


def test_the_exported_model_is_the_weight_average(create, go):
    run = go(create("run", "run.ema=0.5"))
    exported = load_file(run.folder / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in run.average.state.items())
    assert not torch.equal(exported["decoder.head.weight"], run.trainee.model.decoder.head.weight)
    raw = go(create("raw", "run.ema=0"))
    exported = load_file(raw.folder / "model.safetensors")
    assert all(torch.equal(exported[name], value) for name, value in raw.trainee.model.state_dict().items())


@pytest.mark.slow
def test_training_lowers_the_loss(create, go):
    run = go(create("run", "run.steps=40", "run.log_every=10", "run.optimizer.lr=2e-3", "run.batch_size=16"))
    found = [line["loss"] for line in lines(run)]
    assert found[-1] < 0.8 * found[0]


def test_bf16_trains_and_keeps_weights_in_fp32(create, go):
    run = go(create("run", "run.precision=bf16"))
    assert {p.dtype for p in run.trainee.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in run.trainee.state_dict().values())


def test_a_folder_with_a_run_is_not_begun_again(create, go):
    go(create("run"))
    with pytest.raises(ConfigError, match=r"holds a run already; go on with --resume"):
        create("run")


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no run to resume; there is no config\.json"):
        resume(tmp_path)


@pytest.mark.slow
def test_only_the_last_checkpoints_are_kept(create, go):
    run = go(create("run", "run.steps=5", "run.checkpoint_every=1", "run.keep=3"))
    kept = sorted(p.name for p in (run.folder / "checkpoints").iterdir())
    assert kept == ["step-00000003", "step-00000004", "step-00000005"]


# --- the same again ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_runs_of_one_config_are_equal_to_the_last_bit(create, go):
    assert_equal_runs(go(create("one", *LONGER)), go(create("two", *LONGER)))


def test_another_seed_is_another_run(create, go):
    one, other = go(create("one")), go(create("two", "run.seed=1"))
    weights = (run.trainee.model.decoder.head.weight for run in (one, other))
    assert not torch.equal(*weights)
    assert lines(one)[0]["loss"] != lines(other)[0]["loss"]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(create, go, forked, tmp_path):
    whole = go(create("whole", *LONGER))
    settings = ["run.batch_size=8", "run.log_every=1", "run.optimizer.warmup=2", "run.checkpoint_every=4", *LONGER]
    folder = tmp_path / "killed"
    done = forked(KILL, folder, torch.get_num_threads(), *settings)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "model.safetensors").exists()
    with (folder / "log.jsonl").open("a") as log:
        log.write('3.5\nnull\n{"step": "5"}\n')  # ... and a fault of the disk
        log.write('{"step": 6, "lo')  # what a kill may leave of a line
    run = resume(folder)
    assert run.step == 4
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    go(run)
    assert [line["step"] for line in lines(run)] == list(range(1, 13))
    assert_equal_runs(run, whole)


@pytest.mark.slow
def test_draws_inside_a_library_go_on_where_they_were(create, go, register):
    settings = (*LONGER, "run.steps=8", *DRAWING, "decoder=toy-plain")
    whole = go(create("whole", *settings))
    stop = register(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        go(create("cut", *settings))
    stop.step = 99
    torch.rand(7)  # somebody else draws in between
    assert_equal_runs(go(resume(whole.folder.parent / "cut")), whole)


def test_a_run_stopped_before_its_first_checkpoint_begins_again(create, go, register):
    whole = go(create("whole"))
    stop = register(Stop(2))
    with pytest.raises(KeyboardInterrupt):
        go(create("cut"))
    stop.step = 99
    run = resume(whole.folder.parent / "cut")
    assert run.step == 0
    assert_equal_runs(go(run), whole)


def test_a_truncated_last_checkpoint_is_passed_over(create, go):
    run = go(create("run", "run.steps=8"))
    path = run.folder / "checkpoints" / "step-00000008" / "trainee.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="step-00000008 is broken"):
        again = resume(run.folder)
    assert again.step == 4
    assert [line["step"] for line in lines(again)] == [1, 2, 3, 4]


def test_a_failure_while_saving_leaves_the_last_checkpoint_whole(create, go, monkeypatch):
    whole = go(create("whole", "run.steps=8"))
    run, rename = create("cut", "run.steps=8"), checkpoint.os.rename

    def fail_at_eight(source, target):
        if "00000008" in str(target):
            raise OSError("no space left")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "rename", fail_at_eight)
        with pytest.raises(OSError, match="no space left"):
            go(run)
    again = resume(run.folder)
    assert again.step == 4
    assert_equal_runs(go(again), whole)


# --- what is not finite ------------------------------------------------------------------------------------------


class Poison:
    """Spoils the weights once a checkpoint is saved."""

    @hookimpl
    def flexframe_checkpoint_saved(self, run, path):
        with torch.no_grad():
            run.trainee.model.decoder.positions.fill_(float("nan"))


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(create, go):
    run = create()
    with torch.no_grad():
        run.trainee.model.decoder.positions.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"flow, .*encoder.* not finite at step 1; .*lower run\.optimizer\.lr"):
        go(run)
    assert not (run.folder / "log.jsonl").exists()
    saved = json.loads((run.folder / "nonfinite-1.json").read_text())
    assert saved["index"] == run.feed.rows(0)
    assert len(saved["index"]) == 8
    assert "decoder/flow" in saved["parts"]


def test_what_is_not_finite_never_reaches_a_checkpoint(create, go, register):
    register(Poison())
    run = create("run", "run.steps=12", "run.log_every=100")
    with pytest.raises(FloatingPointError, match="not finite at step 5"):
        go(run)
    assert resume(run.folder).step == 4
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["step-00000004"]


def test_a_crash_while_a_resumed_run_shortens_its_log_loses_no_line_and_leaves_no_part(create, go, monkeypatch):
    run = go(create("run", "run.steps=3", "run.checkpoint_every=3"))
    path = run.folder / "log.jsonl"
    path.write_text(path.read_text() + '{"step": 4}\n{"step": 5, "lo')
    before = path.read_text()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            resume(run.folder)
    assert path.read_text() == before
    assert list(run.folder.glob(".log.jsonl.*.part"))
    resume(run.folder).close()
    assert path.read_text() == "".join(before.splitlines(keepends=True)[:3])
    assert not list(run.folder.rglob("*.part"))


def test_a_config_that_was_cut_or_changed_is_told_with_its_file(create, go):
    run = go(create("run", "run.steps=1"))
    path = run.folder / "config.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "model": {**whole["model"], "length": 4}}))
    with pytest.raises(ConfigError, match=r"run: its config was changed: model\.length was 8 and is 4\. Put back"):
        resume(run.folder)
    with pytest.raises(ConfigError, match=r"config\.json: describes another model than its checkpoints hold: \S+ is"):
        Run.resume(run.folder, torch.device("cpu"), accept=True)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read \(Expecting .*; it was written whole"):
        resume(run.folder)


class Failing(Observer):
    """Raises at some of what it is told, and keeps what it heard."""

    def __init__(self, at, error):
        super().__init__(catalogue().get("observer", "tensorboard").config())
        self.at, self.error, self.heard = at, error, []

    def hear(self, what):
        self.heard.append(what)
        if what == self.at:
            raise self.error

    def start(self, folder, step, training):
        self.hear("start")

    def line(self, step, values):
        self.hear("line")

    def end(self, state, why):
        self.hear("end")


@pytest.mark.parametrize("at", ["start", "line", "end"])
@pytest.mark.parametrize("error", [RuntimeError("no network"), SystemExit("no network")])
def test_an_observer_that_raises_is_named_and_left_behind(create, go, at, error):
    run = create("run", "run.steps=2")
    bad, good = Failing(at, error), Failing(None, None)
    run.observers += [bad, good]
    told = (
        rf"observer 'tensorboard' of flexframe .* failed after step \d \({type(error).__name__}: no network\); the run"
    )
    with pytest.warns(UserWarning, match=told):
        go(run)
    assert good.heard == ["start", "line", "line", "end"]
    assert bad.heard == good.heard[: good.heard.index(at) + 1]


def test_settings_that_an_observer_refuses_are_refused(create, go):
    run = create("run")
    run.observers.append(Failing("start", ConfigError.at("run.observers.0", "has no such project")))
    with pytest.raises(ConfigError, match="no such project"):
        go(run)
