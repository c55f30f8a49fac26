"""Configs of the observers: TensorBoard and W&B."""

from __future__ import annotations

from typing import Literal

from flexframe_registry import ObserverConfig


class TensorBoardConfig(ObserverConfig):
    """Write what is logged, and samples, to `<run>/tensorboard`."""

    type: Literal["tensorboard"] = "tensorboard"
    packages = {"tensorboard": "'flexframe[tensorboard]'"}


class WandbConfig(ObserverConfig):
    """Write what is logged, and samples, to `<run>/wandb`, offline: `wandb sync` when it is to be seen there."""

    type: Literal["wandb"] = "wandb"
    packages = {"wandb": "'flexframe[wandb]'"}
    project: str
    """The project of W&B."""
