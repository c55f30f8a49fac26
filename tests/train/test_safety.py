"""What keeps a run from harm: stops that save, locks, full disks, steps that are not finite, gradients by part."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flexframe
from flexframe import lock as lock_module
from flexframe.bench import runner, samples
from flexframe.files import sha256
from flexframe.lock import STALE, Lock, writes
from flexframe.rng import Rng
from flexframe.train import checkpoint
from flexframe.train.distributed import ALONE
from flexframe.train.run import Run
from flexframe.train.watch import Watch
from flexframe.use.decode import decode
from flexframe.use.encode import encode
from flexframe.use.generate import generate
from flexframe.use.precompute import precompute_tokens
from flexframe.use.shards import precompute_features, precompute_latents
from flexframe_registry import ConfigError, hookimpl, manager

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
HOLD = """
import sys, time
from pathlib import Path
from flexframe.lock import Lock
getattr(Lock, sys.argv[1])(Path(sys.argv[2])).take()
print("held", flush=True)
time.sleep(1000)
"""
EMA = "quantizer.average=true"


@pytest.fixture
def register():
    taken = []

    def add(plugin):
        manager().register(plugin)
        taken.append(plugin)
        return plugin

    yield add
    for plugin in taken:
        manager().unregister(plugin)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# --- signals -----------------------------------------------------------------------------------------------------


class Send:
    """Sends this process a signal at the end of a step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    @hookimpl
    def flexframe_step_end(self, run, step, losses):
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_saved_and_goes_on_to_the_bit(create, go, register, number):
    whole = go(create("whole", "run.steps=8", "run.log_every=2"))
    before = signal.getsignal(number)
    sent = register(Send(number, 2))
    run = go(create("stopped", "run.steps=8", "run.log_every=2"))
    sent.step = 99
    assert run.step == 3  # the step in which it came is finished
    assert not (run.folder / "model.safetensors").exists()
    assert not (run.folder / "lock").exists()
    assert signal.getsignal(number) == before
    again = go(Run.resume(run.folder, CPU))
    pairs = [load_file(each.folder / "model.safetensors") for each in (again, whole)]
    assert all(torch.equal(value, pairs[1][name]) for name, value in pairs[0].items())
    logs = [[{k: v for k, v in line.items() if k not in ("images_per_s", "data_wait")} for line in lines(each.folder)]
            for each in (again, whole)]  # fmt: skip
    assert logs[0] == logs[1]  # the line that was begun before the stop included


@pytest.fixture
def interruptible():
    """Python's own answer to Ctrl-C, which what is started in a shell's background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_ends_it_at_once(create, go, register, interruptible):
    class Twice:
        @hookimpl
        def flexframe_step_end(self, run, step, losses):
            os.kill(os.getpid(), signal.SIGTERM)  # once more or less: it is noted
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    register(Twice())
    with pytest.raises(KeyboardInterrupt):
        go(create("run"))


def test_the_command_says_how_to_go_on(command, tmp_path, register):
    register(Send(signal.SIGTERM, 2))
    folder = tmp_path / "run"
    settings = ("run.steps=8", "run.batch_size=8", "run.log_every=1", "--device", "cpu")
    done = command("train", "toy/digits-tiny", *settings, "-o", folder)
    assert done.code == 0
    assert (
        f"stopped by SIGTERM after step 3 of 8, which is saved; go on with: flexframe train --resume {folder}"
        in done.out
    )
    assert checkpoint.find_last(folder / "checkpoints").name == "step-00000003"


# --- one run a folder --------------------------------------------------------------------------------------------


@pytest.fixture
def hold(tmp_path):
    """Starts another process that is at work on a place."""
    held = []

    def start(how, place):
        process = subprocess.Popen([sys.executable, "-c", HOLD, how, place], stdout=subprocess.PIPE, text=True)
        held.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in held:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def holder(tmp_path, hold):
    """Another process that trains in a folder."""
    return hold("of_run", tmp_path)


def test_a_folder_that_is_trained_in_is_refused_until_its_process_is_gone(tmp_path, holder):
    lock = Lock.of_run(tmp_path)
    with pytest.raises(ConfigError, match=rf"process {holder.pid} on {socket.gethostname()} trains here .*with -o"):
        lock.take()
    holder.kill()  # not reaped yet: a zombie counts as gone
    time.sleep(0.2)
    lock.take()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_resume_beside_a_living_run_is_refused_before_anything_is_read(create, go, tmp_path):
    run = go(create("run"))
    log = (run.folder / "log.jsonl").read_text()
    text = {"host": socket.gethostname(), "pid": 1, "began": lock_module._began(1)}
    (run.folder / "lock").write_text(json.dumps(text))
    with pytest.raises(ConfigError, match="process 1 on"):
        Run.resume(run.folder, CPU)
    assert (run.folder / "log.jsonl").read_text() == log


@pytest.mark.parametrize(("age", "stale"), [(10.0, False), (STALE + 10, True)])
def test_a_lock_of_another_host_is_stale_when_nobody_refreshes_it(tmp_path, age, stale):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "began": "then"}))
    os.utime(path, (time.time() - age,) * 2)
    lock = Lock.of_run(tmp_path)
    if stale:
        lock.take()
        lock.release()
    else:
        with pytest.raises(ConfigError, match=r"process 7 on elsewhere trains here .*if its host is gone"):
            lock.take()


def test_a_number_that_another_process_has_by_now_is_no_lock(tmp_path):
    mine = {"host": socket.gethostname(), "pid": os.getppid(), "began": "before the last start of this machine"}
    (tmp_path / "lock").write_text(json.dumps(mine))
    lock = Lock.of_run(tmp_path)
    lock.take()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()
    assert not (tmp_path / "lock").exists()


WRITING = {
    "of_run": ["train toy/digits-tiny -o OUT"],
    "of_output": [
        "decode tokens.safetensors -o OUT", "generate -p prior -o OUT", "encode a.png -m model -o OUT",
        "init card -o OUT", "bench digits-smoke toy/digits-tiny -o OUT", "bench-samples digits-smoke prior -o OUT",
        "import model -o OUT", "new-plugin mine -o OUT", "plot run -o OUT", "reconstruct a.png -m model -o OUT",
        "precompute tokens card -o OUT", "reconstruct a.png -m model -o other.png --json OUT",
    ],
    "latents": ["precompute latents card -o OUT"],
    "features": ["precompute features card -o OUT"],
}  # fmt: skip


@pytest.mark.parametrize("how", WRITING)
def test_whatever_writes_is_told_who_writes_there(tmp_path, hold, command, how):
    out = tmp_path / "new" / "out"
    process = hold(how, out) if how.startswith("of_") else hold("of_output", out / how)
    before = sorted(tmp_path.rglob("*"))
    for words in WRITING[how]:
        done = command(*words.replace("OUT", str(out)).split())
        told = f"process {process.pid} on {socket.gethostname()} {'trains' if how == 'of_run' else 'writes'} here"
        assert (done.code, done.err.count("\n"), told in done.err) == (2, 1, True), (words, done)
    assert sorted(tmp_path.rglob("*")) == before


PYTHON = {
    "of_output": [
        partial(encode, model="", rule=None), decode, generate, partial(precompute_tokens, model=""), runner.run,
        samples.run,
    ],
    "latents": [partial(precompute_latents, name="", device="cpu")],
    "features": [partial(precompute_features, device="cpu")],
}  # fmt: skip


@pytest.mark.parametrize("how", PYTHON)
def test_calls_from_python_take_the_same_lock_once(tmp_path, hold, how):
    out = tmp_path / "out"
    process = hold("of_output", out if how == "of_output" else out / how)
    for call in PYTHON[how]:
        with pytest.raises(ConfigError, match=f"process {process.pid} .* writes here"):
            call(None, None, out)


def test_a_place_that_the_caller_holds_is_its_own(tmp_path):
    lock = Lock.of_output(tmp_path / "out").path

    @writes("place")
    def inner(place):
        return lock.exists()

    @writes("out", "more")
    def outer(out, more=None):
        assert inner(str(out))
        return lock.exists()

    assert outer(tmp_path / "out")
    assert not lock.exists()


def test_what_is_refused_leaves_nothing(tmp_path, command):
    assert command("decode", tmp_path / "none.safetensors", "-o", tmp_path / "new" / "out").code == 2
    assert list(tmp_path.iterdir()) == []


def test_where_no_lock_can_be_the_work_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "no links here")))
    for access in (True, False):
        monkeypatch.setattr(lock_module.os, "access", lambda *_, a=access: a)
        with Lock.of_output(tmp_path / "out") as lock:
            assert (lock.path.parent == tmp_path) is access
            assert json.loads(lock.path.read_text())["pid"] == os.getpid()
        assert not lock.path.exists()


def test_a_run_that_was_made_meanwhile_is_not_begun_anew(create, go, tmp_path, hold):
    go(create("run"))
    with pytest.raises(ConfigError, match="holds a run already"):
        create("run")
    assert not (tmp_path / "run" / "lock").exists()
    process = hold("of_run", tmp_path / "new")
    with pytest.raises(ConfigError, match=f"process {process.pid} .*trains here"):
        create("new")


# --- full disks --------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_whole(create, go, tmp_path):
    run = create("run", "run.steps=8")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = run.save

    def full_at_eight():
        if run.step == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        return save()

    run.save = full_at_eight
    try:
        with pytest.raises(
            OSError,
            match=r"step 8 could not be written in \S+ \(File too large\); .*step-00000004, is whole.*Make room",
        ):
            go(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["step-00000004"]
    again = Run.resume(run.folder, CPU)
    again.close()
    assert again.step == 4


# --- what is not finite ------------------------------------------------------------------------------------------


class Poison:
    """Makes a step's images not finite."""

    def __init__(self, run, *steps):
        self.batches, self.steps = run.feed.batches, steps

    def __call__(self, start):
        for step, batch in enumerate(self.batches(start), start):
            if step in self.steps:
                batch.images[0] = float("nan")
            yield batch


def test_a_bad_step_is_skipped_counted_and_leaves_no_trace(create, go):
    settings = (
        EMA,
        "decoder=toy-plain",
        "run.nonfinite=skip",
        "run.steps=4",
        "run.log_every=4",
        "run.checkpoint_every=100",
    )
    run = create("run", *settings)
    run.feed.batches = Poison(run, 2)
    weights, update = [], run.average.update

    def note(step):
        weights.append([t.detach().clone() for t in (*run.trainee.parameters(), *run.trainee.buffers())])
        update(step)

    run.average.update = note
    go(run)
    assert all(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights[2], weights[3], strict=True))
    assert all(value.isfinite().all() for value in weights[3])
    (line,) = lines(run.folder)
    assert line["skipped"] == 1
    assert torch.tensor([v for v in line.values() if isinstance(v, float)]).isfinite().all()


def test_a_skipped_step_is_none_of_the_optimizers(create, go):
    run = create("run", "run.nonfinite=skip", "run.steps=4")
    run.feed.batches = Poison(run, 1)
    go(run)
    steps = {float(state["step"]) for state in run.optimizer.state_dict()["state"].values()}
    assert steps == {3.0}


def test_a_run_whose_steps_are_all_skipped_stops(create, go):
    run = create("run", "run.nonfinite=skip", "run.log_every=2", "run.steps=20", "run.checkpoint_every=100")
    run.feed.batches = Poison(run, *range(2, 20))
    with pytest.raises(FloatingPointError, match=r"10 steps in a row were skipped: .*flow"):
        go(run)


def test_skipped_steps_in_a_row_count_across_log_lines(create, go):
    run = create("run", "run.nonfinite=skip", "run.log_every=8", "run.steps=24", "run.checkpoint_every=100")
    run.feed.batches = Poison(run, *range(3, 13))
    with pytest.raises(FloatingPointError, match=r"10 steps in a row were skipped"):
        go(run)
    few = create("few", "run.nonfinite=skip", "run.log_every=8", "run.steps=24", "run.checkpoint_every=100")
    few.feed.batches = Poison(few, *range(3, 12), *range(13, 20))
    assert sum(line["skipped"] for line in lines(go(few).folder)) == 16


def test_where_every_step_was_skipped_there_is_no_loss_and_no_code(create, go):
    run = create("run", "run.nonfinite=skip", "run.log_every=2", "run.steps=6")
    run.feed.batches = Poison(run, 2, 3)
    between = lines(go(run).folder)[1]
    assert between["skipped"] == 2
    assert between["loss"] is None
    assert between["grad_norm"] is None
    assert between["codes_used"] == 0


def spoil(run, kind):
    """Make one weight, its average or an optimizer's moment infinite, as an update may that no loss has seen yet."""
    name, weight = next(iter(run.trainee.named_parameters()))
    value = {
        "trainee": weight,
        "ema": run.average.state[name.removeprefix("model.")],
        "optimizer": run.optimizer.state[weight].get("exp_avg_sq"),
    }[kind]
    value.data.view(-1)[0] = float("inf")


@pytest.mark.parametrize("kind", ["trainee", "ema", "optimizer"])
def test_what_is_not_finite_is_not_saved(create, go, kind):
    run = go(create("run"))
    held = sorted((run.folder / "checkpoints").iterdir())
    spoil(run, kind)
    run.step += 1
    told = rf"after step 5, \S+ of {kind}\.safetensors is not finite: no checkpoint .* the last whole one is in"
    with pytest.raises(FloatingPointError, match=told):
        run.save()
    assert sorted((run.folder / "checkpoints").iterdir()) == held
    if kind == "ema":
        with pytest.raises(FloatingPointError, match=r"model\.safetensors is not written, for .* is not finite"):
            run.export(run.paths.model)


@pytest.mark.parametrize("file", ["trainee", "ema"])
def test_a_checkpoint_of_before_that_is_not_finite_is_passed_over(create, go, file, caplog):
    run = go(create("run", "run.checkpoint_every=2"))
    last = run.folder / "checkpoints" / "step-00000004"
    path = last / f"{file}.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    with safe_open(path, "pt") as opened:
        metadata = {name: value for name, value in (opened.metadata() or {}).items() if name != "checksum"}
    save_file(tensors, path, metadata=metadata)
    state = json.loads((last / "state.json").read_text())
    state["sha256"][path.name] = sha256(path)
    (last / "state.json").write_text(json.dumps({k: v for k, v in state.items() if k not in ("finite", "checksum")}))
    with pytest.warns(UserWarning, match=rf"step-00000004 is broken \(of {file}\.safetensors, \S+ is not finite\)"):
        again = Run.resume(run.folder, CPU)
    again.close()
    assert again.step == 2
    (run.folder / "model.safetensors").unlink()
    if file == "ema":
        with pytest.raises(ConfigError, match=r"ema\.safetensors: cannot be used: \S+ is not finite; what trained it"):
            flexframe.load(run.folder)
    (last / "state.json").write_text(json.dumps(state))  # its checksum is that of another
    flexframe.load(run.folder)
    assert "step-00000004 is broken (" in caplog.text


def test_a_bad_step_is_named_though_it_is_seen_later(create, go):
    run = create("run", "run.log_every=4")
    run.feed.batches = Poison(run, 2)
    with pytest.raises(FloatingPointError, match=r"flow.* not finite at step 3; the batch's rows are in .*nonfinite-3"):
        go(run)
    saved = json.loads((run.folder / "nonfinite-3.json").read_text())
    assert saved["index"] == run.feed.rows(2)
    assert not (run.folder / "checkpoints").exists()


# --- gradients, parts, activations -------------------------------------------------------------------------------


def test_norms_of_parts_make_up_the_norm(create, go):
    run = go(create("run", EMA, "decoder=toy-plain"))
    for line in lines(run.folder):
        parts = [line[f"grad_norm/{part}"] for part in ("encoder", "quantizer", "decoder")]
        assert sum(norm**2 for norm in parts) ** 0.5 == pytest.approx(line["grad_norm"], rel=1e-4)


def test_recomputed_activations_change_no_number(create, go):
    one, other = go(create("one")), go(create("two", "run.checkpoint_activations=true"))
    a, b = one.trainee.state_dict(), other.trainee.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_recomputing_keeps_less(create):
    sizes = []
    for name, setting in (("one", "false"), ("two", "true")):
        run = create(name, f"run.checkpoint_activations={setting}")
        batch = next(run.feed.batches(0))
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, held=held: held.append(t.numel()) or t, lambda t: t):
            run.trainee(batch, step=0, rng=Rng(0, batch.index))
        sizes.append(sum(held))
        run.close()
    assert sizes[1] < 0.6 * sizes[0]


def test_one_batch_can_be_learned_by_heart(create, go):
    settings = (
        "decoder=toy-plain",
        "run.overfit_batch=true",
        "run.steps=30",
        "run.optimizer.lr=3e-3",
        "run.log_every=10",
    )
    run = create("run", *settings)
    pictures = [batch.images for batch in run.feed.batches(0)]
    assert all(torch.equal(each, pictures[0]) for each in pictures)
    found = [line["loss"] for line in lines(go(run).folder)]
    assert found[-1] < 0.5 * found[0]


# --- standing still ----------------------------------------------------------------------------------------------


def stand_still():
    with Watch(ALONE, 0.1) as watch:
        watch.at(7, "forward")
        time.sleep(60)


def test_a_single_process_that_stands_still_is_stirred_and_told_where():
    before = signal.getsignal(signal.SIGURG)
    with pytest.raises(TimeoutError, match=r"no progress for 0\.1 s: at step 7, forward\. .*--resume"):
        stand_still()
    assert signal.getsignal(signal.SIGURG) == before


def test_one_that_moves_is_left_alone():
    with Watch(ALONE, 0.5) as watch:
        for step in range(12):
            watch.at(step, "backward")
            time.sleep(0.1)


STUCK = """
import signal, sys, time
from pathlib import Path
from flexframe.train import watch
from flexframe.train.distributed import ALONE
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])  # as where a library never comes back
watch.GRACE = 0.1
with watch.Watch(ALONE, 0.1, Path(sys.argv[1]).write_text):
    time.sleep(60)
"""


def test_one_that_cannot_be_stirred_is_ended(forked, tmp_path):
    done = forked(STUCK, tmp_path / "why")
    told = "no progress for 0.1 s: at step 0, waiting for data"
    assert (done.returncode, done.stderr.startswith(f"flexframe: {told}"), done.stderr.count("\n")) == (124, True, 1)
    assert (tmp_path / "why").read_text().startswith(told)
