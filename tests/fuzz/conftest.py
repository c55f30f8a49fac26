"""Small whole things to break: images, models, and what each command writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flexframe.models import modelfile
from flexframe.models.fingerprint import fingerprint
from flexframe.models.generator import Generator
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import GeneratorConfig, cards

from .frame import fuzz, run

__all__ = ["fuzz", "run"]
MODEL, PRIOR, CODEC = "model.safetensors", "prior.safetensors", "codec.safetensors"


def picture(seed: int, height: int = 20, width: int = 18) -> Image.Image:
    """Smooth, so that no format makes much of it, and like no other."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads as in the processes that are compared, a cache of its own, no hub."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that has a codec and draws nothing, and a prior of its codes."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    overrides = ["codec=toy", "encoder.patch=2", "decoder.patch=2", "masker=toy"]
    config = cards().get("toy/plain").train(overrides).model
    tokenizer = Tokenizer(config).eval()
    torch.nn.init.normal_(tokenizer.quantizer.project.weight, std=0.5)
    modelfile.save(tokenizer.state_dict(), config, folder / MODEL)
    raw = {"length": 8, "codebook_size": 64, "classes": 2, "prior": "toy", "tokenizer": MODEL}
    prior = Generator(GeneratorConfig.read({**raw, "fingerprint": fingerprint(tokenizer)}))
    modelfile.save(prior.state_dict(), prior.config, folder / PRIOR)
    return folder


@pytest.fixture
def whole(tmp_path: Path, models: Path) -> Path:
    """A folder to work in: both models, and images of two classes in `f`."""
    folder = tmp_path / "whole"
    for number in range(6):
        path = folder / "f" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    for path in models.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
