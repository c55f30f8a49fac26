"""Features of torch-fidelity's Inception network, which all metrics of a run that are made of them share."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from flexframe.files import sha256, write_bytes
from flexframe.importing.foreign import TensorFile
from flexframe.nn.lpips import BACKBONES


def fetch(url: str, start: str, path: Path) -> None:
    """Download a file whose sha256 is known to begin with `start`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(url, timeout=20) as answer:
        content = answer.read()
    if not hashlib.sha256(content).hexdigest().startswith(start):
        raise ValueError(f"{url} did not give the published file")
    write_bytes(path, content)


URL = "https://download.pytorch.org/models/"


def backbone_file(net: str, given: str | None) -> Path:
    """The file of torchvision's weights: the given one, or the published one, fetched if need be."""
    if given is not None:
        return Path(given).expanduser()
    return published(BACKBONES[net][1])


def published(file: str) -> Path:
    """A file of torchvision's in torch's hub folder, fetched if need be; its name says what it hashes to."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        fetch(URL + file, file.rpartition("-")[2].removesuffix(".pth"), path)
    return path


def linear_file(net: str, given: str | None) -> Path:
    """The file of the weights by channel: the given one, or torchmetrics'."""
    if given is not None:
        return Path(given).expanduser()
    found = find_spec("torchmetrics")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Tensors of a file, and its sha256. A pickle is read as tensors only."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return dict(TensorFile([path])), sha256(path)
