"""Tests of the plugins together, and of what ships: a small FlexTok with random weights, short runs of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.testing.checks import redraw_zeros
from flexframe.train.run import Run
from flexframe_registry import cards

from . import environments
from .distributions import DISTRIBUTIONS
from .nursery import Nursery

CARD = "flextok/digits-tiny"
MADE = "flexframe-wheel-made"
"""The distribution that `flexframe new-plugin wheel-made` makes."""
SHORT = ("run.steps=4", "run.batch_size=8", "run.log_every=1", "run.optimizer.warmup=2", "run.checkpoint_every=4")


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
def create(tmp_path: Path) -> Callable[..., Run]:
    """Makes runs of flextok/digits-tiny: four steps of eight images unless overridden."""

    def make(name: str = "run", *overrides: str) -> Run:
        config = cards().get(CARD).train([*SHORT, *overrides])
        few = {"steps": 2} if config.model.sampling.model_fields else {}
        return Run.create(config, tmp_path / name, torch.device("cpu"), few)

    return make


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Every distribution's wheel, and that of a made plugin, whose source is given too."""
    root = tmp_path_factory.mktemp("built")
    plugin = root / MADE
    command = [sys.executable, "-m", "flexframe.cli", "new-plugin", "wheel-made", "-o", plugin]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=100)
    return environments.build_wheels(root / "wheels", [*(each.folder for each in DISTRIBUTIONS), plugin]), plugin


@pytest.fixture(scope="session")
def nursery(built: tuple[dict[str, Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """What forks: it holds nothing but what the core requires."""
    root = tmp_path_factory.mktemp("nursery")
    nursery = Nursery([environments.unpacked(root, [built[0]["flexframe"]])], root)
    yield nursery
    nursery.end()
