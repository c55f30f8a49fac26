"""Weights that others publish for judges and teachers: fetched once into torch's hub folder, read as tensors only."""

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
from flexframe.models.build import not_finite, told
from flexframe.nn.lpips import BACKBONES
from flexframe_registry import ConfigError

TORCHVISION = "https://download.pytorch.org/models/"


def hub_file(file: str) -> Path:
    """The place of a file in torch's hub folder, where other programs look for it too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def published(file: str, site: str = TORCHVISION) -> Path:
    """A published file in torch's hub folder, fetched from `site` if need be.

    Args:
        file: its name, which ends in the first digits of its sha256, as torch's hub names files: `NAME-6726825d.pth`.

    Raises:
        OSError: it cannot be fetched.
        ValueError: the site gave something else.
    """
    path = hub_file(file)
    if not path.is_file():
        try:
            with urllib.request.urlopen(site + file, timeout=20) as answer:
                content = answer.read()
        except OSError as error:
            why = getattr(error, "reason", error)  # what urllib wraps, without its wrapping
            raise OSError(f"weights {file} are not on this machine, and could not be fetched: {why}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        if not hashlib.sha256(content).hexdigest().startswith(Path(file).stem.rpartition("-")[2]):
            raise ValueError(f"{site}{file} did not give the published file")
        write_bytes(path, content)
    return path


def remedy(url: str, setting: str) -> str:
    """The way to published weights that are not here: an address, a folder, a metric's setting that names a file."""
    folder, home = hub_file("x").parent, Path.home()
    place = f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else folder
    return f"download {url} into {place}, or name the file as `{setting}` of the metric"


def unread(error: Exception) -> str:
    """The reason why weights were not read, in a sentence's first half."""
    text = " ".join(str(error).split())[:240]
    return text if isinstance(error, OSError) else f"its weights cannot be used ({text})"


def backbone_file(net: str, given: str | None) -> Path:
    """The file of torchvision's weights: the given one, or the published one, fetched if need be."""
    return published(BACKBONES[net][1]) if given is None else Path(given).expanduser()


def linear_file(net: str, given: str | None) -> Path:
    """The file of the weights by channel: the given one, or torchmetrics'."""
    if given is not None:
        return Path(given).expanduser()
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Tensors of a file, and its sha256. A pickle is read as tensors only.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is broken, holds more than tensors, or a weight is not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    tensors = dict(TensorFile([path]))
    wrong = not_finite(tensors)
    if wrong:
        raise ConfigError.at(str(path), f"cannot be used: {told(wrong)}; fetch it again")
    return tensors, sha256(path)
