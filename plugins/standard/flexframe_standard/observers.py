"""TensorBoard and offline W&B."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flexframe.train.observer import Observer
from flexframe_registry import TrainConfig
from flexframe_registry.runfolder import RunFolder
from flexframe_standard.observers_config import TensorBoardConfig, WandbConfig


class TensorBoard(Observer[TensorBoardConfig]):
    """Writes `<run>/tensorboard`."""

    def start(self, folder: RunFolder, step: int, training: TrainConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        self.writer = writer(str(folder.tensorboard), purge_step=step + 1 if step else None)

    def line(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image("samples", np.array(image), step, dataformats="HWC")
        self.writer.flush()

    def end(self, state: str, why: str) -> None:
        self.writer.close()


class Wandb(Observer[WandbConfig]):
    """Writes `<run>/wandb`, to be sent by `wandb sync` whenever its owner wants."""

    def start(self, folder: RunFolder, step: int, training: TrainConfig) -> None:
        self.package: Any = import_module("wandb")
        name = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]
        self.run = self.package.init(
            project=self.config.project, name=folder.path.name, id=name, dir=str(folder.path), mode="offline",
            config=training.model_dump(mode="json"),
        )  # fmt: skip

    def line(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self.run.log({"samples": self.package.Image(str(path))}, step=step)

    def end(self, state: str, why: str) -> None:
        self.run.finish(exit_code=int(state == "failed"))
