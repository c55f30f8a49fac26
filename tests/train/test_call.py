"""`flexframe.train(...)`: the command's run, from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import flexframe
from flexframe.models.tokenizer import Tokenizer
from flexframe.train.console import Console
from flexframe_registry import ConfigError

CARD = "toy/digits-tiny"
SHORT = ("run.batch_size=4", "run.checkpoint_every=2", "run.log_every=2")


def test_it_trains_a_card_and_returns_the_model_that_the_folder_holds(tmp_path: Path) -> None:
    model = flexframe.train(CARD, "run.steps=2", *SHORT, out=tmp_path / "run", device="cpu")
    assert isinstance(model, Tokenizer)
    kept = flexframe.load(tmp_path / "run").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.raises(ConfigError, match="holds a run"):
        flexframe.train(CARD, "run.steps=3", *SHORT, out=tmp_path / "run", device="cpu")


@pytest.mark.slow
def test_it_goes_on_with_a_run_and_is_the_one_that_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = flexframe.train(CARD, "run.steps=4", *SHORT, out=tmp_path / "whole", device="cpu")
    show = Console.show

    def stop(console: Console, line: Any, *given: Any) -> None:
        show(console, line, *given)
        if line["step"] == 4:  # a checkpoint is there, of step 2
            raise RuntimeError("as if it were killed")

    monkeypatch.setattr(Console, "show", stop)
    with pytest.raises(RuntimeError, match="killed"):
        flexframe.train(CARD, "run.steps=4", *SHORT, out=tmp_path / "cut", device="cpu")
    monkeypatch.setattr(Console, "show", show)
    with pytest.raises(ConfigError, match="holds a run"):
        flexframe.train(CARD, "run.steps=5", *SHORT, out=tmp_path / "cut", device="cpu")
    model = flexframe.train(CARD, "run.steps=4", *SHORT, out=tmp_path / "cut", device="cpu")  # the same call
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    again = flexframe.train(resume=tmp_path / "cut", device="cpu")  # it is finished
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())


def test_what_is_missing_or_too_much_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out: is not given"):
        flexframe.train(CARD)
    with pytest.raises(ConfigError, match="card: is not given"):
        flexframe.train(out=tmp_path / "run")
    with pytest.raises(ConfigError, match="leave it out"):
        flexframe.train(resume=tmp_path / "run", out=tmp_path / "other")
    with pytest.raises(ConfigError, match=r"run\.stepz"):
        flexframe.train(CARD, "run.stepz=3", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_name_costs_no_torch() -> None:
    code = "import flexframe, sys; assert callable(flexframe.train); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
