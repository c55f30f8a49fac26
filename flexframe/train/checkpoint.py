"""Checkpoints: whole or absent. Written beside, flushed, renamed; the state, read first, holds the hashes."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from flexframe.files import of_system, sha256, sync, write_json
from flexframe.models import tensorfile
from flexframe.models.build import not_finite, told
from flexframe.train.sharding import gathered, like
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json
from flexframe_registry.runfolder import EMA, STATE, STEPS, TRAINEE, step_name


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by file name, and what is no tensor."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write(folder: Path, step: int, files: Mapping[str, Any], state: Mapping[str, Any], keep: int) -> Path:
    """Write `<folder>/step-NNNNNNNN` atomically and drop all but the last `keep`.

    Args:
        files: by name, a function that writes the file it is given, or tensors to be saved as safetensors.

    Raises:
        OSError: the disk is full, or does not take it for another reason. The checkpoints before it are whole.
    """
    try:
        return _write(folder, step, files, state, keep)
    except (OSError, SafetensorError) as error:
        _clear(folder)
        before = sorted(path.name for path in folder.glob(STEPS))
        kept = f"the last one, {before[-1]}, is whole" if before else "there is none before it"
        named = of_system(error, folder)
        reason = named.strerror if isinstance(named, OSError) and named.strerror else str(error)
        text = f"the checkpoint of step {step} could not be written in {folder} ({reason}); {kept}"
        raise OSError(f"{text}. Make room, and go on with --resume") from error


def refuse_other(own: Mapping[str, Tensor], held: Mapping[str, Tensor], config: Path) -> None:
    """See that a checkpoint's tensors are those of the model that a run's config describes.

    Raises:
        ConfigError: they are another model's; the first tensor that differs is named.
    """
    same = {name for name in own.keys() & held.keys() if own[name].shape == held[name].shape}
    others = sorted((own.keys() | held.keys()) - same)
    if others:
        text = f"describes another model than its checkpoints hold: {others[0].removeprefix('model.')} is another"
        text = f"{text} ({len(others)} tensors in all); put back the config with which the run began"
        raise ConfigError.at(str(config), text)


def _clear(folder: Path) -> None:
    for left in folder.glob(".part-*"):
        shutil.rmtree(left, ignore_errors=True)


def _write(folder: Path, step: int, files: Mapping[str, Any], state: Mapping[str, Any], keep: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    final, temporary = folder / step_name(step), folder / f".part-{step:08d}"
    _clear(folder)
    temporary.mkdir()
    hashes = {}
    for name, content in sorted(files.items()):
        path = temporary / name
        if callable(content):
            content(path)
        hashes[name] = sha256(path) if callable(content) else tensorfile.write(path, content)
    write_json(temporary / STATE, {**state, "step": step, "sha256": hashes})
    for path in temporary.iterdir():
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    sync(folder)
    for old in sorted(folder.glob(STEPS))[:-keep]:
        shutil.rmtree(old)
    return final


def find_last(folder: Path) -> Path | None:
    """The newest checkpoint whose files hash to what they were, and whose weights are finite; others are passed over
    with a warning. One that says of itself that it is finite was seen to be as it was written."""
    for path in sorted(folder.glob(STEPS), reverse=True):
        try:
            state = read_json(path / STATE)
            wrong = [name for name, value in state["sha256"].items() if sha256(path / name) != value]
            if wrong:
                raise ValueError(f"{', '.join(wrong)} is not as it was written")
            for name in (TRAINEE, EMA) if not state.get("finite") else ():
                wrong = not_finite(load_file(path / name)) if name in state["sha256"] else []
                if wrong:
                    raise ValueError(f"of {name}, {told(wrong)}")
            return path
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            warnings.warn(f"checkpoint {path} is broken ({error}); going back to the one before", stacklevel=2)
    return None


def read(path: Path) -> Checkpoint:
    """A checkpoint that `find_last` found."""
    state = read_json(path / STATE)
    files = [name for name in state["sha256"] if name.endswith(".safetensors")]
    return Checkpoint({name: load_file(path / name) for name in files}, state)


def read_last(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, if there is one."""
    path = find_last(folder)
    return None if path is None else read(path)


NUMBER = ".number"
"""End of the name of what is no tensor in an optimizer's state, but a number."""


def optimizer_tensors(optimizer: torch.optim.Optimizer, keep: bool = True) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors `<parameter number>.<name>`, whole ones, and its own where they are not in
    shards; none where they are not kept."""
    flat: dict[str, Tensor] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                flat[f"{number}.{name}"] = value
            else:  # of Python's own precision
                kind = torch.float64 if isinstance(value, float) else None
                flat[f"{number}.{name}{NUMBER}"] = torch.tensor(value, dtype=kind)
    return gathered(flat, keep)


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; what is sharded here takes its shards."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        if name.endswith(NUMBER):
            state.setdefault(int(number), {})[name.removesuffix(NUMBER)] = value.item()
            continue
        same = value.shape == parameters[int(number)].shape
        state.setdefault(int(number), {})[name] = like(value, parameters[int(number)]) if same else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
