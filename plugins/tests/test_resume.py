"""Runs of real parts that are broken off."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.train import checkpoint
from flexframe.train.run import Run
from flexframe_registry import TrainConfig, hookimpl, manager

LONGER = ("run.steps=12", "run.transforms=[flip, {type: shift, pixels: 1}]")
REVIVING = "quantizer={type: vq, codebook_size: 64, dim: 8, l2_norm: false, ema: true, dead_code_threshold: 0.5}"


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


@pytest.mark.slow
def test_draws_inside_a_library_go_on_where_they_were(create, go, register):
    settings = (*LONGER, "run.steps=8", REVIVING, "decoder=vit")
    whole = go(create("whole", *settings))
    stop = register(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        go(create("cut", *settings))
    stop.step = 99
    torch.rand(7)  # somebody else draws in between
    assert_equal_runs(go(resume(whole.folder.parent / "cut")), whole)


# --- of before feeds, transforms, observers and optimizers were components ----------------------------------------


EARLIER = Path(__file__).parent / "earlier-run"
"""`config.json` and `log.jsonl` of a run by the code of commit 4eb066f, under torch 2.14."""
DRAWN = ("quantizer", "grad_norm")
"""Numbers that follow from which codes are revived: the library draws them, and other releases of torch draw others."""


@pytest.mark.slow
def test_a_run_of_before_goes_on_with_its_own_numbers(create, go, register, tmp_path):
    folder = tmp_path / "earlier"
    raw = json.loads((EARLIER / "config.json").read_text())
    with pytest.warns(FutureWarning, match=r"run\.shift is now run\.transforms=.*run\.lr is now run\.optimizer\.lr"):
        config = TrainConfig.read({name: raw[name] for name in ("model", "run")})
    whole = go(Run.create(config, tmp_path / "whole", torch.device("cpu"), raw["sampling"]))
    register(Stop(3))
    with pytest.raises(KeyboardInterrupt):
        go(Run.create(config, folder, torch.device("cpu"), raw["sampling"]))
    shutil.copytree(whole.folder / "checkpoints/step-00000003", folder / "checkpoints/step-00000003")
    shutil.copy(EARLIER / "config.json", folder / "config.json")
    with pytest.warns(FutureWarning, match="earlier spellings"):
        resumed = resume(folder)
    assert resumed.step == 3
    go(resumed)
    assert_equal_runs(resumed, whole)
    earlier = [json.loads(line) for line in (EARLIER / "log.jsonl").read_text().splitlines()]
    alike = torch.__version__.startswith("2.14.")
    for line, told in zip(lines(resumed), earlier, strict=True):
        for name in told.keys() - {"images_per_s", "data_wait", "codes_used", "codes_dead"}:
            if alike or not name.startswith(DRAWN):
                assert line[name] == pytest.approx(told[name], rel=1e-3), name
