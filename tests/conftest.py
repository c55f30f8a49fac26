"""What the core's tests stand on: the toys, a small tokenizer of them with random weights, short runs of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flexframe.models.tokenizer import Tokenizer
from flexframe.train.run import Run
from flexframe_registry import cards
from flexframe_registry.manager import ONLY

TOY = Path(__file__).parent / "toy"
"""A folder that holds the toys as they are installed: their package, and its entry point in a dist-info folder."""
sys.path.insert(0, str(TOY))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TOY), os.environ.get("PYTHONPATH"))))  # of processes too
if ONLY in os.environ:
    os.environ[ONLY] += ",toy"

CARD = "toy/digits-tiny"
SHORT = ("run.steps=4", "run.batch_size=8", "run.log_every=1", "run.optimizer.warmup=2", "run.checkpoint_every=4")


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    """toy/digits-tiny with random weights. Not to be changed."""
    torch.manual_seed(0)
    return Tokenizer(cards().get(CARD).model, {"steps": 2}).eval().requires_grad_(False)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def create(tmp_path: Path) -> Callable[..., Run]:
    """Makes runs of toy/digits-tiny: four steps of eight images unless overridden."""

    def make(name: str = "run", *overrides: str) -> Run:
        config = cards().get(CARD).train([*SHORT, *overrides])
        few = {"steps": 2} if config.model.sampling.model_fields else {}
        return Run.create(config, tmp_path / name, torch.device("cpu"), few)

    return make
