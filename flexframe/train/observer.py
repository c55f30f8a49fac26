"""The contract of observers: who is told what a run logs, beside the run's own log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic

from typing_extensions import TypeVar

from flexframe_registry import ObserverConfig, TrainConfig
from flexframe_registry.runfolder import RunFolder

GROUPS = {
    "held_out": "val/loss",
    "lr": "optimizer/lr",
    "grad_norm": "optimizer/grad_norm",
    "skipped": "optimizer/skipped",
    "images_per_s": "speed/images_per_s",
    "data_wait": "speed/data_wait",
}
"""Where trackers have what a run logs under one word."""

ObserverC = TypeVar("ObserverC", bound=ObserverConfig, default=ObserverConfig)


class Observer(ABC, Generic[ObserverC]):
    """Is told of one run, by its first process. Built as `(config)`; changes nothing of what it is told of.
    One that raises is named and told no more."""

    def __init__(self, config: ObserverC) -> None:
        self.config = config

    @abstractmethod
    def start(self, folder: RunFolder, step: int, training: TrainConfig) -> None:
        """Begin: a run is built, in this folder, with so many steps done (more than 0 where it is resumed)."""

    @abstractmethod
    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers that were logged of a step; those that are not known are left out."""

    def picture(self, step: int, path: Path) -> None:
        """Take a picture of samples, drawn after a step; before that step's line, where there is one."""

    def end(self, state: str, why: str) -> None:
        """Take leave: the run `finished`, was `stopped` by a signal or `failed`, and why."""


def grouped(values: Mapping[str, float]) -> dict[str, float]:
    """Numbers of a line by names as trackers group them, by the word before the first slash: `train/loss` with the
    losses of parts (`train/decoder/flow`), `val/loss` (the run's `held_out`), `optimizer/`, `grad_norm/` of parts,
    `codes/`, `speed/` and `probe/`. No name begins another with a slash, for some trackers make folders of them."""
    return {_group(name): value for name, value in values.items()}


def _group(name: str) -> str:
    head, _, rest = name.partition("/")
    if name in GROUPS:
        return GROUPS[name]
    if head.startswith("codes_"):
        return f"codes/{name.removeprefix('codes_')}"
    return name if head in ("probe", "grad_norm") and rest else f"train/{name}"
