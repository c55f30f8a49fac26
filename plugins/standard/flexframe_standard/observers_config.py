"""Configs of the observers: TensorBoard and W&B."""

from __future__ import annotations

from typing import Literal

from flexframe_registry import ObserverConfig


class TensorBoardConfig(ObserverConfig):
    """Write what is logged, and samples, to `<run>/tensorboard`."""

    type: Literal["tensorboard"] = "tensorboard"
    packages = {"tensorboard": "'flexframe[tensorboard]'"}


class WandbConfig(ObserverConfig):
    """Write what is logged, and samples, to `<run>/wandb`: offline, for `wandb sync` when it is to be seen there, or
    online. A run that goes on is the same run there."""

    type: Literal["wandb"] = "wandb"
    packages = {"wandb": "'flexframe[wandb]'"}
    project: str
    """The project of W&B."""
    entity: str | None = None
    """The user or team that the project is of; the one who is logged in if not given."""
    name: str | None = None
    """The run's name there; its folder's if not given."""
    tags: tuple[str, ...] = ()
    """Words to find the run by."""
    mode: Literal["offline", "online"] = "offline"
    """Whether it is sent while it trains."""
    artifact: bool = False
    """Keep the finished model there, as an artifact of the run's name."""
