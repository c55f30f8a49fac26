"""The refusals fail where a checkpoint is read that must not be, or is refused otherwise than in one plain sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flexframe.testing.refusals import SETTINGS, TENSORS, WEIGHTS, Refusal
from flexframe_registry import ConfigError

ALL = (*WEIGHTS, *TENSORS, *SETTINGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(3), "b": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"width": 3, "inner": {"depth": [{"x": 1}]}}))
    return tmp_path


@pytest.mark.parametrize("refusal", ALL, ids=lambda each: each.name)
def test_what_is_read_fails(refusal: Refusal, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(AssertionError, match=f"{refusal.name}: it was read, and must be refused"):
        refusal(folder, lambda _: None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_code_that_is_run_fails(folder: Path) -> None:
    def read(path: Path) -> None:
        pickle.loads((path / "pytorch_model.bin").read_bytes())  # what an importer must never do
        raise ConfigError.at(str(path), "nothing in it was run; ask for it as safetensors")

    with pytest.raises(AssertionError, match="what the checkpoint holds was run"):
        WEIGHTS[0](folder, read)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("a"), "KeyError, not ConfigError"),
        (ConfigError.at("", "is not a whole safetensors file; fetch it again"), "no place"),
        (ConfigError.at("p", "is not a whole safetensors file\nfetch it again"), "not one line"),
        (ConfigError.at("p", "is not a whole safetensors file; fetch it again" + "x" * 5000), "characters"),
        (ConfigError.at("p", "is broken"), "does not say"),
    ],
)
def test_a_refusal_in_other_words_fails(error: Exception, words: str, folder: Path) -> None:
    def read(path: Path) -> None:
        raise error

    refusal = next(each for each in WEIGHTS if each.name == "cut-short")
    with pytest.raises(AssertionError, match=words):
        refusal(folder, read)


def test_one_sentence_passes(folder: Path) -> None:
    def read(path: Path) -> None:
        raise ConfigError.at(str(path), "is not a whole safetensors file; fetch it again")

    next(each for each in WEIGHTS if each.name == "cut-short")(folder, read)


def test_a_checkpoint_without_config_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(AssertionError, match=r"parametrize_refusals\(config=False\)"):
        SETTINGS[0](tmp_path, lambda _: None)
