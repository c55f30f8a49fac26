"""Checkpoints as training scripts leave them: a model, its running average, and what the script was told."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from flexframe.importing import open_foreign
from flexframe.testing.refusals import Bomb
from flexframe_registry import ConfigError

STATE = {"enc.a": torch.zeros(1), "dec.a": torch.ones(2)}


def refused(path, match):
    with pytest.raises(ConfigError, match=match) as told:
        open_foreign(path)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_of_a_model_and_its_average_the_average_is_taken_and_told(whole, tmp_path):
    other = {name: value + 1 for name, value in STATE.items()}
    if whole:
        path = tmp_path / "model.safetensors"
        save_file({f"{w}.{n}": t for w, state in (("net", STATE), ("net_ema", other)) for n, t in state.items()}, path)
    else:
        path = tmp_path / "model.pth"
        torch.save({"net": STATE, "net_ema": other, "optimizer": {"state": {0: STATE}}, "epoch": 3}, path)
    source = open_foreign(path)
    assert source.tensors["enc.a"].tolist() == [1]
    assert source.tensors.taken == "net_ema"
    assert source.notes == ("of its weights the running average, 'net_ema', is taken; --entry net takes the others",)
    for entry, held in (("net", 0), ("net_ema", 1)):
        asked = open_foreign(path, entry=entry)
        assert (asked.tensors["enc.a"].tolist(), asked.notes) == ([held], ())


def test_an_average_of_other_tensors_is_none(tmp_path):
    torch.save({"net": STATE, "net_ema": {"enc.a": STATE["enc.a"]}}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "holds tensors under 'net', 'net_ema'; say which with --entry NAME")
    save_file({"w": torch.zeros(1), "w_ema": torch.ones(1)}, tmp_path / "model.safetensors")
    assert sorted(open_foreign(tmp_path / "model.safetensors").tensors) == ["w", "w_ema"]


def test_the_arguments_of_a_script_are_read_and_run_nothing(tmp_path):
    path, before = tmp_path / "model.pth", torch.serialization.get_safe_globals()
    torch.save({"model": STATE, "args": Namespace(lr=0.1, betas=(0.9, 0.95), resume=None)}, path)
    assert sorted(open_foreign(path).tensors) == ["dec.a", "enc.a"]
    torch.save({"model": STATE, "args": Namespace(lr=Bomb(tmp_path / "ran"))}, path)
    refused(path, "nothing in it was run .*; ask for it as safetensors, or where you trust who made it")
    assert not (tmp_path / "ran").exists()
    assert torch.serialization.get_safe_globals() == before
