"""What several tests start from: the small FlexTok with random weights, short quiet runs, the command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from rich.console import Console as Terminal

from flexframe.models.tokenizer import Tokenizer
from flexframe.testing.checks import redraw_zeros
from flexframe.train.console import Console
from flexframe.train.loop import train
from flexframe.train.run import Run
from flexframe_registry import cards

CARD = "flextok/digits-tiny"
SHORT = ("run.steps=4", "run.batch_size=8", "run.log_every=1", "run.warmup=2", "run.checkpoint_every=4")


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    """flextok/digits-tiny with random weights, none of them zero throughout. Not to be changed."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(cards().get(CARD).model, {"steps": 2})
    redraw_zeros(tokenizer)
    # else every token is the middle code, whatever the slot and the image
    torch.nn.init.normal_(tokenizer.quantizer.project.weight, std=0.2)
    torch.nn.init.normal_(tokenizer.encoder.registers)
    return tokenizer.eval().requires_grad_(False)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As a user runs it: without the tests' type checks, so that the code's own words are heard."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., Run]:
    """Makes runs of flextok/digits-tiny: four steps of eight images unless overridden."""

    def make(name: str = "run", *overrides: str) -> Run:
        config = cards().get(CARD).train([*SHORT, *overrides])
        return Run.create(config, tmp_path / name, torch.device("cpu"), {"steps": 2})

    return make


@pytest.fixture
def go() -> Callable[[Run], Run]:
    """Trains a run to its end, in silence."""

    def quietly(run: Run) -> Run:
        train(run, Console(Terminal(file=io.StringIO())))
        return run

    return quietly


@dataclass
class Answer:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs the command line in this process."""
    from flexframe import cli

    def call(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["flexframe", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capsys.readouterr()
        return Answer(int(stopped.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., Any]:
    """Runs code in a process of its own, with `tmp_path` on its path."""

    def call(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, args)]
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200", **environment}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=200)

    return call


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a plugin's module and its entry point where this process and its children find them."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[flexframe]\n{name} = {name}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make
