"""Checkpoints: whole or absent."""

import json

import pytest
import torch
from torch import nn

from flexframe.train import checkpoint


def write(folder, step, value=0.0, keep=2):
    tensors = {"a.safetensors": {"x": torch.full((1000,), value)}, "b.safetensors": {"y": torch.tensor([step])}}
    return checkpoint.write(folder, step, tensors, {"note": "kept"}, keep)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    path = write(tmp_path, 3, 0.5)
    assert path.name == "step-00000003"
    found = checkpoint.read_last(tmp_path)
    assert (found.state["step"], found.state["note"]) == (3, "kept")
    assert torch.equal(found.tensors["a.safetensors"]["x"], torch.full((1000,), 0.5))
    assert torch.equal(found.tensors["b.safetensors"]["y"], torch.tensor([3]))


def test_the_last_few_are_kept(tmp_path):
    for step in (1, 2, 10, 3):
        write(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000010"]


def test_a_step_may_be_written_again(tmp_path):
    write(tmp_path, 1, 1.0)
    write(tmp_path, 1, 2.0)
    assert checkpoint.read_last(tmp_path).tensors["a.safetensors"]["x"][0] == 2


def test_there_may_be_none(tmp_path):
    assert checkpoint.read_last(tmp_path) is None
    assert checkpoint.read_last(tmp_path / "nowhere") is None


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.safetensors", truncate),
        ("a.safetensors", flip),
        ("a.safetensors", lambda path: path.unlink()),
        ("state.json", truncate),
        ("state.json", lambda path: path.unlink()),
        ("state.json", lambda path: path.write_text("{}")),
    ],
    ids=["truncated", "flipped", "missing", "state-truncated", "state-missing", "state-empty"],
)
def test_a_broken_checkpoint_is_passed_over_with_a_warning(tmp_path, name, damage):
    write(tmp_path, 1)
    damage(write(tmp_path, 2) / name)
    with pytest.warns(UserWarning, match=r"step-00000002 is broken .*; going back to the one before"):
        assert checkpoint.read_last(tmp_path).state["step"] == 1


def test_what_a_kill_left_half_written_is_no_checkpoint_and_is_cleared(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".part-00000002").mkdir()
    (tmp_path / ".part-00000002" / "old.safetensors").write_bytes(b"half")
    assert checkpoint.read_last(tmp_path).state["step"] == 1
    path = write(tmp_path, 2)
    assert not (tmp_path / ".part-00000002").exists()
    assert "old.safetensors" not in json.loads((path / "state.json").read_text())["sha256"]


@pytest.mark.parametrize("moment", ["rename", "fsync"])
def test_a_write_that_fails_leaves_the_one_before_whole(tmp_path, monkeypatch, moment):
    write(tmp_path, 1)

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, moment, fail)
        with pytest.raises(OSError, match="no space left"):
            write(tmp_path, 2)
    assert checkpoint.read_last(tmp_path).state["step"] == 1


def test_an_optimizers_state_survives():
    layers = [nn.Linear(3, 2), nn.Linear(3, 2)]
    layers[1].load_state_dict(layers[0].state_dict())
    one, other = (torch.optim.AdamW(layer.parameters(), lr=0.1) for layer in layers)
    x = torch.randn(4, 3)

    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    step(layers[0], one)
    layers[1].load_state_dict(layers[0].state_dict())
    held = checkpoint.optimizer_tensors(one)
    assert held["0.exp_avg"].data_ptr() == one.state[layers[0].weight]["exp_avg"].data_ptr()  # saving copies nothing
    checkpoint.load_optimizer(other, {name: value.clone() for name, value in held.items()})
    for layer, optimizer in zip(layers, (one, other), strict=True):
        step(layer, optimizer)
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)
