"""Runs as their folders have them: how far they are, what they logged, how they ended. Imports no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexframe.lock import holder
from flexframe.train.alarms import ALARMS
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json
from flexframe_registry.runfolder import CONFIG, LOG, RunFolder

PARTS = ("encoder", "quantizer", "decoder")


@dataclass(frozen=True)
class History:
    """One run, as its folder has it."""

    folder: Path
    model: str
    steps: int
    """Steps that it is to take."""
    lines: tuple[Mapping[str, Any], ...]
    """Lines of its log, in order of the steps; one that a kill cut short is left out."""
    state: str
    """`running`, `finished`, `stopped` (by a signal; it can go on), `failed` (an error, or killed)."""
    why: str
    """The reason, where it failed or was stopped."""
    touched: float
    """When it last logged, or was begun: seconds since 1970."""

    batch_size: int
    ended: int = 0
    """The step that it ended after, which need not have been logged."""

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max(self.ended, int(self.lines[-1]["step"]) if self.lines else 0)

    @property
    def last(self) -> Mapping[str, Any]:
        """The last line that was logged; empty where there is none."""
        return self.lines[-1] if self.lines else {}

    @property
    def alarms(self) -> list[Mapping[str, Any]]:
        """Records of the alarms that went off, in order."""
        return [{"step": line["step"], **record} for line in self.lines for record in line.get(ALARMS, ())]

    @property
    def age(self) -> float:
        """Seconds since it last logged."""
        return max(0.0, time.time() - self.touched)


def read(folder: Path) -> History:
    """The run of a folder.

    Raises:
        ConfigError: there is none, or its config cannot be read.
    """
    paths = RunFolder(folder)
    path = paths.config
    if not path.is_file():
        raise ConfigError.at(str(folder), f"holds no run; there is no {CONFIG}")
    try:
        config = read_json(path, edit=True)
        model, run = _model(config["model"]), config["run"]
        steps, batch_size = int(run["steps"]), int(run["batch_size"])
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError.at(str(path), f"is not the config of a run ({type(error).__name__}: {error})") from None
    lines, log = tuple(_lines(paths.log)), paths.log
    state, why, ended = _state(folder, steps, int(lines[-1]["step"]) if lines else 0)
    touched = (log if log.is_file() else path).stat().st_mtime
    return History(folder, model, steps, lines, state, why, touched, batch_size, ended)


def log(folder: Path) -> tuple[Mapping[str, Any], ...]:
    """Lines that the run of a folder has logged; none before its first one.

    Raises:
        ConfigError: the folder holds no run.
    """
    paths = RunFolder(folder)
    if not paths.log.is_file() and not paths.config.is_file():
        raise ConfigError.at(str(folder), f"holds no run: neither a {LOG} nor a {CONFIG}")
    return tuple(_lines(paths.log))


def find(root: Path) -> Iterator[Path]:
    """Folders of runs under a folder, itself included, in the order of their names.

    Raises:
        ConfigError: there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError.at(str(root), "is no folder; name the one that holds your runs")
    for path in sorted(root.rglob(CONFIG)):
        if _is_run(path):
            yield path.parent


def _is_run(path: Path) -> bool:
    """True for a run's config; published models have a config.json too."""
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return (path.parent / LOG).is_file()  # a run's, and broken: to be told
    return isinstance(config, dict) and config.keys() >= {"model", "run"}


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        return
    yield from filter(None, map(line_of, path.read_text(errors="replace").splitlines()))


def line_of(text: str) -> Mapping[str, Any] | None:
    """A line of a log; None for what is none, as one that a kill cut short."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _model(config: Mapping[str, Any]) -> str:
    """A model in a few words."""
    if "prior" in config:
        return f"{config['prior']['type']} {config['length']}"
    return " ".join([*(config[part]["type"] for part in PARTS), str(config["length"])])


def _state(folder: Path, steps: int, step: int) -> tuple[str, str, int]:
    """State, why, and the step that it ended after."""
    held = holder(folder)
    if held is not None and held[1]:
        return "running", held[0], 0
    try:
        end = read_json(RunFolder(folder).end)
        return str(end["state"]), str(end["why"]), int(end.get("step", 0))
    except (ValueError, KeyError, TypeError):
        pass  # killed before it could tell, or of a version that did not
    if held is not None:
        return "failed", f"{held[0]} was killed, or its host went down", 0
    return "finished" if step >= steps else "stopped", "", 0
