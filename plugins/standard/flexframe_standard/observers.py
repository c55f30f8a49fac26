"""TensorBoard and offline W&B: what a run logs, for those who watch it there, as its config says."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from flexframe_registry import ConfigError, RunConfig

if TYPE_CHECKING:
    from flexframe.train.run import Run

PACKAGES = ("tensorboard", "wandb")
"""Of each, the setting of the run, the package and the extra have this name."""


class Observer(ABC):
    """Is told each log line."""

    @abstractmethod
    def tell(self, step: int, line: Mapping[str, Any], picture: Path | None) -> None:
        """Numbers of a step, and its samples if there are any."""


class TensorBoard(Observer):
    """Writes `<run>/tensorboard`."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        self.writer = writer(str(run.paths.tensorboard), purge_step=run.step + 1 if run.step else None)

    def tell(self, step: int, line: Mapping[str, Any], picture: Path | None) -> None:
        for name, value in line.items():
            self.writer.add_scalar(name, value, step)
        if picture is not None:
            with Image.open(picture) as image:
                self.writer.add_image("samples", np.array(image), step, dataformats="HWC")
        self.writer.flush()


class Wandb(Observer):
    """Writes `<run>/wandb`, to be sent by `wandb sync` whenever its owner wants."""

    def __init__(self, run: Run) -> None:
        import wandb

        self.package: Any = wandb
        name = hashlib.sha256(str(run.folder.resolve()).encode()).hexdigest()[:12]
        self.run = self.package.init(
            project=run.config.run.wandb, name=run.folder.name, id=name, dir=str(run.folder), mode="offline",
            config=run.config.model_dump(mode="json"),
        )  # fmt: skip

    def tell(self, step: int, line: Mapping[str, Any], picture: Path | None) -> None:
        more = {} if picture is None else {"samples": self.package.Image(str(picture))}
        self.run.log({**line, **more}, step=step)


KINDS: Mapping[str, type[Observer]] = {"tensorboard": TensorBoard, "wandb": Wandb}
_observers: WeakKeyDictionary[Run, list[Observer]] = WeakKeyDictionary()


def check(config: RunConfig) -> None:
    """`ConfigError` where a run asks for an observer whose package is not installed."""
    for name in PACKAGES:
        if getattr(config, name) and find_spec(name) is None:
            text = f"needs the package {name}: pip install 'flexframe[{name}]', or leave it out"
            raise ConfigError.at(f"run.{name}", text)


def start(run: Run) -> None:
    """Begin to observe a run, where its config says so."""
    check(run.config.run)
    found = [KINDS[name](run) for name in PACKAGES if getattr(run.config.run, name)]  # type: ignore[call-arg]
    if found:
        _observers[run] = found


def tell(run: Run, step: int) -> None:
    """Pass a run's last log line on."""
    picture = run.paths.sample(step)
    line = {name: value for name, value in run.last.items() if name != "step" and value is not None}
    for observer in _observers.get(run, ()):
        observer.tell(step, line, picture if picture.is_file() else None)
