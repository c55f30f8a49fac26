"""Two processes, as torchrun starts them, against one on the same batches: losses, weights, optimizer, checkpoints."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings

import pytest
import torch
import torch._dynamo  # what the first optimizer imports, seconds of it: here, and not in each fork
from rich.console import Console as Terminal
from safetensors.torch import load_file

from flexframe.data.share import Share
from flexframe.train import distributed
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import ConfigError
from flexframe_registry.cards import read_training

pytestmark = pytest.mark.slow  # two processes for each of a dozen runs
CPU = torch.device("cpu")
RUN = {
    "data": {"type": "scenes", "complexity": 0, "count": 20}, "steps": 4, "batch_size": 8, "accumulate": 2,
    "optimizer": {"lr": 1e-3, "warmup": 1}, "log_every": 2, "checkpoint_every": 2,
    "transforms": [{"type": "shift", "pixels": 1}], "ema": 0.9,
}  # fmt: skip
SMALL = {"size": "tiny", "image_size": 16, "length": 6, "codec": "identity"}
MODELS = {
    "flextok": SMALL | {"encoder": "registers", "quantizer": {"type": "fsq", "levels": [4, 4]}, "masker": "uniform",
                        "decoder": "flow"},
    "titok": SMALL | {"encoder": {"type": "latent-tokens", "depth": 1}, "masker": "full",
                      "decoder": {"type": "vit", "depth": 1},  # flextok's are deeper
                      "quantizer": {"type": "vq", "codebook_size": 16, "dim": 4, "l2_norm": False, "ema": True}},
    "flowmo": SMALL | {"encoder": {"type": "mmdit", "depth": 1}, "masker": "full",  # whose steps hold norms
                       "decoder": {"type": "mmdit", "depth": 1},
                       "quantizer": {"type": "lfq", "codebook_size": 16, "codebooks": 2, "entropy": 0}},
    "gpt": {"tokenizer": "titok/digits-tiny", "classes": 10,  # dropout is each process's own
            "prior": {"type": "gpt", "width": 16, "depth": 2, "heads": 2, "dropout": 0}},
}  # fmt: skip


MODELS["opposed"] = MODELS["titok"]
OPPONENT = {"type": "adversarial", "weight": 0.1, "start": 2, "lecam": 0.5,
            "critic": {"type": "blurred", "hidden": 32, "multipliers": [1], "grid": 2}}  # fmt: skip


def config(model, **run):
    settings = RUN | run
    if model == "opposed":
        settings = settings | {"objectives": ["mse", OPPONENT]}
    if model == "gpt":
        settings = settings | {"transforms": [], "feed": {"keep_tokens": True}}
    return read_training({"model": MODELS[model], "run": settings})


def quietly(run):
    return train(run, Console(Terminal(file=io.StringIO())))


def member(rank, size, port, job, arguments):
    """One of several processes, in the environment that torchrun gives it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    code = 1
    try:
        job(distributed.join(CPU, 120.0), *arguments)
        distributed.leave()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def together(job, *arguments, size=2):
    """Run a job in several processes, and give their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # what is imported is there already
    found = [fork.Process(target=member, args=(rank, size, port, job, arguments)) for rank in range(size)]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        for each in found:
            each.start()
    for each in found:
        each.join(timeout=200)
    codes = [each.exitcode for each in found]
    for each in found:
        each.kill()
    return codes


def fresh(processes, jobs):
    for found, folder in jobs:
        quietly(Run.create(found, folder, CPU, {}, processes))


def go_on(processes, folder):
    quietly(Run.resume(folder, CPU, processes))


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same(one, other, within=1e-6, weights=None):
    """Logged losses, trained weights, average, optimizer: of two runs' last checkpoints."""
    weights = within if weights is None else weights
    logs = lines(one), lines(other)
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for name in {n for n in a if a[n] is not None} - {"images_per_s", "data_wait"}:
            # a norm is summed in another order over shards, in float32
            rounding = 5 * within if name.startswith("grad_norm") else within
            assert b[name] == pytest.approx(a[name], abs=2 * within, rel=rounding), (a["step"], name)
    last = "checkpoints/step-00000004"
    for name in ("trainee", "ema", "optimizer"):
        pair = [load_file(folder / last / f"{name}.safetensors") for folder in (one, other)]
        assert pair[0].keys() == pair[1].keys()
        for key, value in pair[0].items():
            torch.testing.assert_close(
                pair[1][key], value, atol=weights, rtol=weights, msg=lambda m, k=key: f"{k}: {m}"
            )
    models = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert models[0].keys() == models[1].keys()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the same runs, by one process and by two: averaged gradients, and shards."""
    base = tmp_path_factory.mktemp("runs")
    found = {(model, way): base / f"{model}-{way}" for model in MODELS for way in ("one", "ddp", "fsdp")}
    jobs = [(config(model, parallel=way), found[model, way]) for model in MODELS for way in ("ddp", "fsdp")]
    assert together(fresh, jobs) == [0, 0]
    for model in MODELS:
        quietly(Run.create(config(model), found[model, "one"], CPU, {}))
    return found


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_train_as_one(trained, model, way):
    # a critic, and what stands before gates that are zero at first, have gradients near zero, whose last digits a first
    # step of Adam's magnifies
    weights = 1e-5 if model in ("opposed", "flowmo") else None
    assert_same(trained[model, "one"], trained[model, way], weights=weights)


def cut(folder, target, **run):
    """A copy of a run's folder as a kill left it behind its checkpoint of step 2."""
    shutil.copytree(folder, target)
    shutil.rmtree(target / "checkpoints" / "step-00000004")
    (target / "model.safetensors").unlink()
    raw = json.loads((target / "config.json").read_text())
    raw["run"] |= run
    (target / "config.json").write_text(json.dumps(raw))
    return target


def test_a_sharded_runs_checkpoint_goes_on_in_one_process(trained, tmp_path):
    folder = cut(trained["titok", "fsdp"], tmp_path / "run")
    with pytest.warns(UserWarning, match="2 processes wrote this checkpoint, 1 go on with it"):
        run = Run.resume(folder, CPU)
    quietly(run)
    assert_same(trained["titok", "one"], folder)


def test_one_processs_checkpoint_goes_on_in_shards(trained, tmp_path):
    folder = cut(trained["titok", "one"], tmp_path / "run", parallel="fsdp")
    with warnings.catch_warnings(action="ignore"):
        assert together(go_on, folder) == [0, 0]
    assert_same(trained["titok", "one"], folder)


def test_two_processes_resume_to_the_bit(trained, tmp_path):
    folder = cut(trained["titok", "ddp"], tmp_path / "run")
    assert together(go_on, folder) == [0, 0]
    assert_same(trained["titok", "ddp"], folder, within=0)


def hang(processes, folder):
    run = Run.create(config("flextok", timeout=4.0), folder, CPU, {}, processes)
    if processes.rank == 1:
        batches = run.feed.batches

        def stuck(start):
            yield next(batches(start))
            time.sleep(1000)

        run.feed.batches = stuck
    quietly(run)


def test_a_process_that_hangs_is_named(tmp_path, capfd):
    assert together(hang, tmp_path / "run") == [124, 124]
    err = capfd.readouterr().err
    told = [line for line in err.splitlines() if "no progress" in line]
    assert any(line.startswith("flexframe: rank 0 on ") for line in told), err
    for line in told:
        assert f"waiting for rank 1 on {socket.gethostname()} (process " in line
        assert "at step 1, waiting for data" in line


def stop_one(processes, folder):
    run = Run.create(config("flextok", steps=30, log_every=1), folder, CPU, {}, processes)
    if processes.rank == 1:
        run.feed.batches = Signal(3).around(run.feed.batches)
    assert quietly(run) == "SIGTERM"


class Signal:
    """Sends this process a SIGTERM once so many batches were taken."""

    def __init__(self, after):
        self.after = after

    def around(self, batches):
        def taken(start):
            for i, batch in enumerate(batches(start)):
                if i == self.after:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return taken


def test_a_signal_to_one_process_stops_all_of_them_after_the_same_step(tmp_path):
    folder = tmp_path / "run"
    assert together(stop_one, folder) == [0, 0]
    steps = [line["step"] for line in lines(folder)]
    assert steps[-1] in (4, 5)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())[-1] == f"step-{steps[-1]:08d}"


FAILS = """
import sys, time
import torch.distributed as dist
from flexframe import cli
from flexframe.train import loop

dist.destroy_process_group = lambda: time.sleep(1000)  # as NCCL's does where the others are in a collective
draw = loop.learning_rate

def fail(config, step, **more):
    if dist.get_rank() == 1 and step == 2:
        raise OSError(28, "No space left on device")
    return draw(config, step, **more)

loop.learning_rate = fail
cli.main()
"""


def test_one_process_that_fails_tells_why_and_ends(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = ("train", "titok/digits-tiny", "run.batch_size=4", "run.steps=9", "--device", "cpu", "-o", tmp_path / "run")
    fork = multiprocessing.get_context("fork")
    found = [fork.Process(target=fail, args=(rank, port, words, tmp_path / f"{rank}.err")) for rank in range(2)]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        for each in found:
            each.start()
    try:
        found[1].join(timeout=120)
        assert found[1].exitcode == 2
        assert "rank 1: a file cannot be written: the disk is full" in (tmp_path / "1.err").read_text()
    finally:
        for each in found:
            each.kill()
            each.join()


def fail(rank, port, words, err):
    """The command line in one of two processes, in the environment that torchrun gives it."""
    os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    warnings.resetwarnings()
    sys.argv = ["flexframe", *map(str, words)]
    exec(FAILS, {"__name__": "__main__"})


def test_a_batch_that_does_not_split_over_the_processes_is_refused():
    with pytest.raises(ConfigError, match="6 does not split into 2 parts on each of 2 processes; take a multiple of 4"):
        Share(0, 2).check(6, 2)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_of_all_processes_together_are_those_of_one(size, accumulate):
    rows = list(range(100, 112))
    shares = [Share(rank, size).of(rows, accumulate) for rank in range(size)]
    own = len(rows) // size // accumulate
    for part in range(accumulate):
        together = [row for each in shares for row in each[part * own : (part + 1) * own]]
        assert together == rows[part * own * size : (part + 1) * own * size]


def test_only_the_first_process_writes(trained):
    facts = json.loads((trained["flextok", "ddp"] / "manifest.json").read_text())
    assert facts["processes"] == 2
    assert [line["step"] for line in lines(trained["flextok", "ddp"])] == [2, 4]
    assert not (trained["flextok", "ddp"] / "lock").exists()
