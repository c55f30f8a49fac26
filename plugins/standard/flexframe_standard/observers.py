"""TensorBoard and W&B."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flexframe.train.observer import Observer, grouped
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
        for name, value in grouped(values).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, path: Path) -> None:
        with Image.open(path) as image:
            self.writer.add_image("samples", np.array(image), step, dataformats="HWC")
        self.writer.flush()

    def end(self, state: str, why: str) -> None:
        self.writer.close()


class Wandb(Observer[WandbConfig]):
    """Writes `<run>/wandb`, and sends it at once or leaves it to `wandb sync`."""

    def start(self, folder: RunFolder, step: int, training: TrainConfig) -> None:
        self.package: Any = import_module("wandb")
        self.folder, config = folder, self.config
        own = hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]
        self.run = self.package.init(
            project=config.project, entity=config.entity, name=config.name or folder.path.name, tags=list(config.tags),
            id=own, resume="allow", mode=config.mode, dir=str(folder.path),
            config=training.model_dump(mode="json"),
        )  # fmt: skip

    def line(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(grouped(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self.run.log({"samples": self.package.Image(str(path))}, step=step)

    def end(self, state: str, why: str) -> None:
        if self.config.artifact and state == "finished" and self.folder.model.is_file():
            kept = self.package.Artifact(_plain(self.config.name or self.folder.path.name), type="model")
            kept.add_file(str(self.folder.model))
            self.run.log_artifact(kept)
        self.run.finish(exit_code=int(state == "failed"))


def _plain(name: str) -> str:
    """A name of letters that W&B takes for an artifact's."""
    return re.sub(r"[^\w.-]+", "-", name)
