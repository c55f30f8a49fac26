"""Pictures on disk, and the small FlexTok as a model file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexframe.models import modelfile
from flexframe.models.tokenizer import Tokenizer


def picture(seed: int, width: int = 24, height: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            shard.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures at two depths, and a file that is none."""
    root = tmp_path / "photos"
    for number, name in enumerate(("b/2.png", "b/10.jpg", "a.png", "c.PNG", "d/e/1.webp", "z.png", "b.bmp")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    (root / "b" / "notes.txt").write_text("no image")
    return root


IDS = ["a.png", "b.bmp", "b/10.jpg", "b/2.png", "c.PNG", "d/e/1.webp", "z.png"]
"""Of `photos`, in order."""


@pytest.fixture
def model(tiny: Tokenizer, tmp_path: Path) -> Path:
    """A model file of the small FlexTok with random weights."""
    path = tmp_path / "model.safetensors"
    modelfile.save(tiny.state_dict(), tiny.config, path, sampling={"steps": 2})
    return path
