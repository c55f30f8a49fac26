"""Model files: whole, our own, fitting their config."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import flexframe
from flexframe.files import write_json
from flexframe.models import modelfile
from flexframe.store import places
from flexframe_registry import Card, Cards, ConfigError, cards
from flexframe_registry.cardfile import CardFile


@pytest.fixture
def path(tiny, tmp_path):
    """A model file."""
    path = tmp_path / "model.safetensors"
    modelfile.save(tiny.state_dict(), tiny.config, path, sampling={"steps": 3}, about={"step": 7})
    return path


def rewrite(path, change):
    """The model file with other tensors."""
    header, state = modelfile.read(path)
    change(state)
    save_file(state, path, metadata={"format": modelfile.FORMAT, "flexframe": json.dumps(header)})


def test_a_model_survives_saving(tiny, path, pictures):
    found = flexframe.load(path)
    assert found.config == tiny.config
    assert found.sampling.steps == 3
    assert not found.training
    assert {n: v.sum() for n, v in found.state_dict().items()} == {n: v.sum() for n, v in tiny.state_dict().items()}
    tokens = tiny.encode(pictures)
    assert torch.equal(found.encode(pictures).codes, tokens.codes)
    assert torch.equal(found.decode(tokens), tiny.decode(tokens, sampling={"steps": 3}))


def test_a_file_holds_what_is_known_about_it(path):
    header, state = modelfile.read(path)
    assert header["about"] == {"step": 7}
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_nothing_is_left_beside_a_saved_file(path):
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_stands_for_its_model(path):
    assert places.find(path.parent) == places.find(str(path)) == path


def test_a_run_stands_for_its_finished_model_then_its_last_whole_checkpoint(path, tmp_path, caplog):
    run = tmp_path / "run"
    for step in (2, 10):
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "ema.safetensors")
    (run / "checkpoints" / "step-00000012").mkdir()
    assert places.find(run) == run / "checkpoints" / "step-00000010" / "ema.safetensors"
    assert places.find(run / "checkpoints" / "step-00000002").name == "ema.safetensors"
    write_json(run / "checkpoints" / "step-00000010" / "state.json", {"sha256": {"ema.safetensors": "another"}})
    assert places.find(run) == run / "checkpoints" / "step-00000002" / "ema.safetensors"
    assert "step-00000010 is broken (ema.safetensors is not as it was written); it is passed over" in caplog.text
    shutil.copy(path, run / "model.safetensors")
    assert places.find(run) == run / "model.safetensors"


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors and no whole checkpoint"):
        flexframe.load(tmp_path)


# --- broken and foreign files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 7, 100, 20_000])
def test_a_truncated_file_is_told_and_named(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ConfigError, match=r"model\.safetensors: is not a whole safetensors file"):
        flexframe.load(path)


@pytest.mark.parametrize("place", [-1, 60])
def test_a_file_that_is_whole_and_not_as_it_was_written_is_told(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1  # the last weight, a letter of the config
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"was changed after it was written, .*; fetch or train it again"):
        flexframe.load(path)


def test_a_foreign_safetensors_file_is_told(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ConfigError, match=r"foreign\.safetensors: is of no format known here"):
        flexframe.load(path)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"config": {}}'])
def test_a_file_without_a_whole_config_is_told(tmp_path, text):
    path = tmp_path / "odd.safetensors"
    metadata = {"format": modelfile.FORMAT} | ({} if text is None else {"flexframe": text})
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(ConfigError, match=r"odd\.safetensors: its metadata holds no whole config"):
        flexframe.load(path)


def test_a_config_too_long_to_be_one_is_not_read(tmp_path):
    path = tmp_path / "long.safetensors"
    text = json.dumps({"config": "x" * modelfile.MAX_CONFIG, "sampling": {}, "about": {}})
    save_file({"a": torch.zeros(2)}, path, metadata={"format": modelfile.FORMAT, "flexframe": text})
    with pytest.raises(ConfigError, match="at most 1048576 are read"):
        flexframe.load(path)


def test_every_missing_left_over_and_misshapen_tensor_is_listed(path):
    def spoil(state):
        del state["encoder.registers"], state["decoder.positions"]
        state["decoder.extra"] = torch.zeros(2)
        state["decoder.null"] = torch.zeros(3)

    rewrite(path, spoil)
    with pytest.raises(ConfigError) as error:
        flexframe.load(path)
    text = str(error.value)
    assert "\n" not in text
    for word in (
        "missing encoder.registers", "missing decoder.positions", "left over decoder.extra",
        "decoder.null is (3,), not (16,)",
    ):  # fmt: skip
        assert word in text


def test_a_config_of_a_part_that_is_not_installed_is_told(path):
    header, state = modelfile.read(path)
    header["config"]["quantizer"] = {"type": "toyy"}
    save_file(state, path, metadata={"format": modelfile.FORMAT, "flexframe": json.dumps(header)})
    with pytest.raises(ConfigError, match=r"model\.safetensors\.quantizer: no quantizer named 'toyy'.*'toy'"):
        flexframe.load(path)


# --- names -------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'toy/digits-tyny'\. Did you mean 'toy/digits-tiny'\?.*no such"):
        flexframe.load("toy/digits-tyny")


def test_a_cards_id_given_as_a_path_is_told():
    with pytest.raises(ConfigError, match="give a card's id as a string"):
        flexframe.load(Path("toy/digits-tiny"))


def shelve(monkeypatch, path, sha256, sampling):
    """Make `toy/model` the one installed card, with the given file as its weights."""
    raw = cards().get("toy/digits-tiny").file.model_dump(exclude={"weights"})
    file = CardFile.read(raw | {"weights": {"path": path.name, "sha256": sha256}, "sampling": sampling})
    found = Cards({"toy/model": path})
    monkeypatch.setattr(Cards, "get", lambda self, name: Card(name, file, path.parent))
    monkeypatch.setattr(places, "cards", lambda: found)


def test_one_setting_is_one_and_not_its_letters(path):
    assert flexframe.load(path, overrides="sampling.steps=3").sampling.steps == 3


def test_a_card_brings_its_own_settings(path, monkeypatch):
    shelve(monkeypatch, path, hashlib.sha256(path.read_bytes()).hexdigest(), {"steps": 11, "guidance": 2.0})
    found = flexframe.load("toy/model")
    assert (found.sampling.steps, found.sampling.guidance) == (11, 2.0)


def test_weights_that_are_not_the_cards_are_refused(path, monkeypatch):
    shelve(monkeypatch, path, "a" * 64, {})
    with pytest.raises(ConfigError, match=r"toy/model: .* hashes to .*the card says aaaaaaaaaaaa; fetch it again"):
        flexframe.load("toy/model")
