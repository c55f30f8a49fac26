"""Broken and hostile checkpoints, made of a good one. Each must be refused, by one `ConfigError` that says where and
what to do, before anything in it is run. For the tests of an importer, in three lines:

@parametrize_refusals()
def test_what_is_broken_or_hostile_is_refused(refusal, folder):
    refusal(folder)

`folder` holds a good checkpoint as it is published: `model.safetensors`, and its config beside it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from flexframe.importing.foreign import CONFIGS
from flexframe.importing.plain import MAX_DEPTH, read_config
from flexframe.store.load import load
from flexframe_registry import ConfigError
from flexframe_registry.runfolder import MODEL

BIN = "pytorch_model.bin"
LONGEST = 500
"""Characters of a refusal, for each problem: what a stranger wrote into a file does not fill the screen."""
STRANGE = "nobody_knows_this"
"""A tensor or a setting of no format."""


@dataclass(frozen=True)
class Bomb:
    """Makes a folder where a pickle of it is run: harmless, and seen."""

    mark: Path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@dataclass(frozen=True)
class Refusal:
    """One way to spoil a checkpoint, and what must be said of it."""

    name: str
    spoil: Callable[[Path, Path], None]
    """Changes the checkpoint of a folder; a code that is run makes the second path."""
    told: str
    """A pattern of the refusal: what is wrong, and what to do about it."""

    def __call__(self, folder: Path, read: Callable[[Path], object] | None = None) -> None:
        """Spoil a copy of the good checkpoint in `folder`, and assert that reading it is refused.

        Args:
            read: reads a checkpoint's folder; `flexframe.load` of a model of any kind if None.
        """
        with TemporaryDirectory() as temporary:
            copy, mark = Path(temporary) / "checkpoint", Path(temporary) / "ran"
            shutil.copytree(folder, copy)
            self.spoil(copy, mark)
            error = _refused(copy, read or _load)
            assert not mark.exists(), f"{self.name}: what the checkpoint holds was run"
        assert error is not None, f"{self.name}: it was read, and must be refused"
        text = str(error)
        assert isinstance(error, ConfigError), f"{self.name}: {type(error).__name__}, not ConfigError: {text}"
        assert all(where or str(copy) in what for where, what in error.problems), f"{self.name}: no place in {text!r}"
        assert len(text.splitlines()) == 1, f"{self.name}: not one line: {text!r}"
        assert len(text) <= LONGEST * len(error.problems), f"{self.name}: {len(text)} characters"
        assert re.search(self.told, text), f"{self.name}: {text!r} does not say {self.told!r}"


def parametrize_refusals(*, config: bool = True) -> Any:
    """A pytest parametrization `refusal` over every way to spoil a checkpoint.

    Args:
        config: whether the checkpoint has a config to be spoilt.
    """
    import pytest

    chosen = (*WEIGHTS, *TENSORS, *(SETTINGS if config else ()))
    return pytest.mark.parametrize("refusal", chosen, ids=[each.name for each in chosen])


def _load(folder: Path) -> object:
    return load(folder, kind=None)


def _refused(folder: Path, read: Callable[[Path], object]) -> Exception | None:
    try:
        read(folder)
    except Exception as error:  # of any class: the assertions tell which it should have been
        return error
    return None


# --- weights -----------------------------------------------------------------------------------------------------


def _pickled(content: Callable[[Path, dict[str, Any]], object], whole: bool = True) -> Callable[[Path, Path], None]:
    """The weights as a PyTorch file of what `content` makes of a mark and the tensors; a bare pickle if not whole."""

    def spoil(folder: Path, mark: Path) -> None:
        state = load_file(folder / MODEL)
        (folder / MODEL).unlink()
        if whole:
            torch.save(content(mark, dict(state)), folder / BIN)
        else:
            (folder / BIN).write_bytes(pickle.dumps(content(mark, dict(state))))

    return spoil


def _cut(folder: Path, mark: Path) -> None:
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[: len(content) // 2])


def _cut_bin(folder: Path, mark: Path) -> None:
    _pickled(lambda _, state: state)(folder, mark)
    content = (folder / BIN).read_bytes()
    (folder / BIN).write_bytes(content[: len(content) // 2])


def _rubbish(folder: Path, mark: Path) -> None:
    (folder / MODEL).write_bytes(b"<html>404: not found</html>" * 20)


RAN = r"nothing in it was run.*ask for it as safetensors"
WEIGHTS = (
    Refusal("a-pickle-that-runs-code", _pickled(lambda mark, _: Bomb(mark), whole=False), RAN),
    Refusal("a-torch-file-that-runs-code", _pickled(lambda mark, _: Bomb(mark)), RAN),
    Refusal("code-among-the-tensors", _pickled(lambda mark, state: {**state, "bomb": Bomb(mark)}), RAN),
    Refusal("more-than-tensors", _pickled(lambda _, state: {"epoch": 3, **state}), "ask for the bare state dict"),
    Refusal("several-sets-of-tensors", _pickled(lambda _, state: {"model": state, "ema": state}), "--entry NAME"),
    Refusal("cut-short", _cut, "is not a whole safetensors file.*fetch it again"),
    Refusal("a-torch-file-cut-short", _cut_bin, RAN),
    Refusal("rubbish", _rubbish, "is not a whole safetensors file.*fetch it again"),
)
"""Refused as soon as the file is opened, whatever its format."""


# --- tensors and settings ----------------------------------------------------------------------------------------


def _surplus(folder: Path, mark: Path) -> None:
    save_file({**load_file(folder / MODEL), STRANGE: torch.zeros(1)}, folder / MODEL)


def _config(folder: Path) -> Path:
    path = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    assert path is not None, f"{folder} has no config to be spoilt: parametrize_refusals(config=False)"
    return path


def _set(name: str, value: object) -> Callable[[Path, Path], None]:
    """A setting laid on the config's root."""

    def spoil(folder: Path, mark: Path) -> None:
        path = _config(folder)
        path.write_text(json.dumps({**read_config(path), name: value}), encoding="utf-8")  # JSON is YAML as well

    return spoil


def _targets(value: Any) -> Any:
    """Plain data that names a class to build in every mapping."""
    if isinstance(value, Mapping):
        return {key: _targets(inner) for key, inner in value.items()} | {"_target_": "os.system"}
    return [_targets(inner) for inner in value] if isinstance(value, list) else value


def _classes(folder: Path, mark: Path) -> None:
    path = _config(folder)
    path.write_text(json.dumps(_targets(read_config(path))), encoding="utf-8")


def _write(text: str) -> Callable[[Path, Path], None]:
    """Another text in the config's place."""

    def spoil(folder: Path, mark: Path) -> None:
        _config(folder).write_text(text, encoding="utf-8")

    return spoil


TENSORS = (Refusal("a-surplus-tensor", _surplus, STRANGE),)
SETTINGS = (
    Refusal("an-unknown-setting", _set(STRANGE, 1), f"{STRANGE}.*--drop {STRANGE}"),
    Refusal("a-huge-setting", _set(STRANGE, "x" * 100_000), f"{STRANGE}.*--drop {STRANGE}"),
    Refusal("a-class-to-build", _set("_target_", "os.system"), "_target_"),
    Refusal("classes-to-build-everywhere", _classes, "_target_"),
    Refusal("no-mapping", _write("[1, 2]"), "config.*not a mapping"),
    Refusal("too-deep", _write("[" * 1000 + "]" * 1000), f"config.*more than {MAX_DEPTH} brackets"),
    Refusal("a-config-cut-short", _write('{"model": {"a": '), "config.*cannot be read"),
)
