"""Runs that go on: what they may be given anew, and what must be as it was at their last checkpoint: the other
settings, the data, and what judges and teaches. Of one that failed before it had any, another takes the place."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexframe.data.inventory import changed
from flexframe.files import differences, differing
from flexframe_registry import ConfigError, RunConfig, TrainConfig
from flexframe_registry.cards import read_training
from flexframe_registry.config import is_anew, may_change
from flexframe_registry.files import checksum, put, read_json, split_override
from flexframe_registry.runfolder import STEPS, RunFolder
from flexframe_registry.spellings import present


@dataclass(frozen=True)
class Changes:
    """Differences from the last checkpoint, in sentences."""

    allowed: tuple[str, ...] = ()
    """Settings that may be another: to be told."""
    others: tuple[str, ...] = ()
    """What makes it another run: to be refused, unless the user says so."""

    @property
    def told(self) -> tuple[str, ...]:
        """All of it."""
        return (*self.allowed, *self.others)


def with_settings(raw: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A run's config as plain data, with `key.path=value` on top.

    Raises:
        ConfigError: one is not of this form.
    """
    given = dict(raw)
    for setting in settings:
        key, value = split_override(setting)
        path = key.split(".")
        given = put(given, path if path[0] in ("run", "model") else ["model", *path], value)
        given = {**given, "run": present(given["run"])}
    return given


def refuse_kept(was: TrainConfig, now: TrainConfig) -> None:
    """See that only settings differ that a resumed run may be given anew.

    Raises:
        ConfigError: one that it keeps does.
    """
    pairs = differing(was.model_dump(mode="json"), now.model_dump(mode="json"))
    kept = [text for path, text in pairs if not may_change(now, path)]
    if kept:
        free = ", ".join(f"run.{name}" for name, field in RunConfig.model_fields.items() if is_anew(field))
        text = f"a resumed run keeps its settings: {'; '.join(kept)}. It may be given {free}, and where its data lie"
        weights = ", with these weights by run.init" if now.model.kind == "tokenizer" else ""
        raise ConfigError.at("--resume", f"{text}; for others begin another run{weights}")


def record(config: TrainConfig, data: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All that steps that are done rest on, as plain data for a checkpoint."""
    return {"config": config.model_dump(mode="json"), "data": dict(data), "objectives": dict(facts)}


def changes(was: Mapping[str, Any], now: Mapping[str, Any], config: TrainConfig) -> Changes:
    """Compare the `record` of a checkpoint, in which what is missing was not recorded, with this config's now."""
    others: list[str] = []
    settings = list(differing(_read_again(was["config"]), now["config"])) if "config" in was else []
    allowed = tuple(text for path, text in settings if may_change(config, path))
    kept = [text for path, text in settings if not may_change(config, path)]
    others += [f"its config was changed: {'; '.join(kept)}"] if kept else []
    data = changed(was.get("data"), now["data"])
    others += [f"its data have changed: {data}"] if data else []
    facts = differences(was["objectives"], now["objectives"]) if "objectives" in was else []
    others += [f"what judges and teaches it has changed: {'; '.join(facts)}"] if facts else []
    return Changes(allowed, tuple(others))


def _read_again(raw: Mapping[str, Any]) -> Any:
    """A config that an earlier version wrote, as this one writes it."""
    try:
        return read_training(raw).model_dump(mode="json")
    except ConfigError:
        return dict(raw)  # what it lacks or has too much is told


# --- the same command again ---------------------------------------------------------------------------------------


def asked(config: TrainConfig, sampling: Mapping[str, Any]) -> str:
    """The config that was asked for, for the manifest: data and weights that a run is given may complete it."""
    return checksum({"config": config.model_dump(mode="json"), "sampling": dict(sampling)})


def goes_on(folder: Path, config: TrainConfig, sampling: Mapping[str, Any]) -> bool:
    """True where a folder holds the run that this asks for, with a checkpoint, and nothing that it was given since."""
    paths = RunFolder(folder)
    if not paths.manifest.is_file() or not (paths.model.is_file() or any(paths.checkpoints.glob(STEPS))):
        return False
    facts = read_json(paths.manifest, "name another folder with -o")
    return "resumed" not in facts and facts.get("asked") == asked(config, sampling)


# --- in the place of one that failed ---------------------------------------------------------------------------------


def refuse_taken(paths: RunFolder) -> None:
    """See that a folder holds no run that can go on or is finished, so that another may begin there.

    Raises:
        ConfigError: it does, or it is somebody else's.
    """
    if not paths.config.exists():
        return
    if paths.model.is_file() or any(paths.checkpoints.glob(STEPS)):
        raise ConfigError.at(
            str(paths.path),
            "holds a run already; go on with --resume, or name another folder with -o",
        )
    text = paths.config.read_text(errors="replace")
    with suppress(ValueError):
        given = json.loads(text)
        if isinstance(given, dict) and given.keys() >= {"model", "run"}:
            return
    if text.strip():  # an empty one is what a full disk left
        raise ConfigError.at(str(paths.config), "is no run's, so none is begun here; name another folder with -o")


def clear(paths: RunFolder) -> None:
    """Remove what a run left that ended before its first checkpoint."""
    if not paths.config.exists():
        return
    warnings.warn(f"{paths.path} holds a run that ended before its first checkpoint; it is begun anew", stacklevel=3)
    for left in paths.leftovers():  # the config last, by which they are known as a run's
        shutil.rmtree(left) if left.is_dir() else left.unlink()
