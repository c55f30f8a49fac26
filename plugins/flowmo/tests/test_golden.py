"""Parity with the reference implementation's tensors (random weights, fp32, CPU), through the importer."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import flexframe
from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check
from flexframe.testing.tables import TableRng

GOLDEN = shared(Path(__file__)) / "golden" / "flowmo" / "tokenizer"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]
GIVEN = {
    "case_decode": {"quantized", "x_t", "timesteps"},
    "case_encode": {"images"},
    "case_posttrain": {"images", "code_with_mask", "init_noise", "step_uniform"},
    "case_quantizer": {"code"},
    "case_sample": {"quantized", "init_noise", "reconstruct_noise"},
    "case_train": {"images", "cfg_uniform", "noise", "t_fat_uniform", "t_normal", "t_uniform"},
}


@pytest.mark.slow
def test_every_tensor_of_every_case():
    found = check("flowmo/tokenizer", verify_folder(GOLDEN))
    compared = {(c.case, c.tensor) for c in found}
    for path in GOLDEN.glob("case*.safetensors"):
        with safe_open(path, framework="pt") as case:
            wanted = {name for name in case.keys() if name not in GIVEN[path.stem]}  # noqa: SIM118
        assert {(path.stem, name) for name in wanted} <= compared
    for case in ("case_train", "case_posttrain"):
        norms = [c for c in found if c.case == case and c.tensor.startswith("norm.")]
        assert len(norms) == len(json.loads((GOLDEN / f"{case}_grad_norms.json").read_text()))
    assert {c.tensor for c in found if c.exact} == {"bits", "indices"}


@torch.no_grad()
def test_pixels_to_tokens_and_back_as_a_user_does_it():
    case, sample = (load_file(GOLDEN / f"case_{name}.safetensors") for name in ("encode", "sample"))
    model = flexframe.load(GOLDEN)
    assert (model.sampling.steps, model.sampling.power, model.sampling.guidance) == (6, 4.0, 1.5)
    tokens = model.encode((case["images"] + 1) / 2)
    assert torch.equal(tokens.codes.flatten(), case["indices"])
    rng = TableRng({"decoder/sample": sample["reconstruct_noise"]}, 2)
    images = model.decode(model.tokens(tokens.codes), rng=rng)
    assert torch.allclose(2 * images - 1, sample["reconstruct"], atol=5e-5)


@pytest.mark.slow
def test_a_file_as_published_has_two_state_dicts_and_no_config(tmp_path):
    tensors = load_file(GOLDEN / "model.safetensors")
    states = {"model_ema_state_dict": tensors, "model_state_dict": {name: value + 1 for name, value in tensors.items()}}
    torch.save({"total_steps": 7, **states}, tmp_path / "tiny.pth")
    with pytest.raises(flexframe.ConfigError, match="say which with --entry NAME"):
        flexframe.load(tmp_path / "tiny.pth")
    assume = {"model.codebook_size_for_entropy": 5, "model.code_length": 12, "data.image_size": 32}
    entry = "model_ema_state_dict"
    with pytest.raises(flexframe.ConfigError, match="codebook_size_for_entropy: is not given"):
        flexframe.load(tmp_path / "tiny.pth", entry=entry)
    for name, value in {"hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12]}.items():
        assume[f"tiny_sizes.dit_b_4.{name}"] = value
    model, whole = flexframe.load(tmp_path / "tiny.pth", entry=entry, assume=assume), flexframe.load(GOLDEN)
    assert model.config == whole.config
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())
    assert (model.sampling.steps, model.sampling.interval) == (25, whole.sampling.interval)
    assert "it has no config" in model.about["import"]["notes"][0]


def test_a_config_that_holds_no_norms():
    model = flexframe.load(GOLDEN, assume={"model.fix_initial_norms": False})
    assert not model.config.encoder.fixed_norms
    assert not model.config.decoder.fixed_norms


def test_a_card_says_which_state_dict_of_a_file_is_meant(tmp_path, monkeypatch):
    tensors = load_file(GOLDEN / "model.safetensors")
    torch.save({"last": {name: value + 1 for name, value in tensors.items()}, "mean": tensors}, tmp_path / "tiny.pth")
    (tmp_path / "config.json").symlink_to(GOLDEN / "config.json")
    card = "base: flowmo/digits-tiny\nsummary: x\nweights: {hub: some/one, file: tiny.pth, entry: mean}\n"
    (tmp_path / "card.yaml").write_text(card)
    monkeypatch.setattr("flexframe.store.hub.fetch", lambda repo, revision, file: (tmp_path / file, "c0ffee"))
    model = flexframe.load(tmp_path / "card.yaml")
    assert torch.equal(model.encoder.start, tensors["encoder.txt_in.bias"])
    assert model.about["import"]["entry"] == "mean"


@pytest.mark.slow
def test_training_goes_on_from_it_at_another_size_and_length(tmp_path, go):
    from flexframe.train.run import Run
    from flexframe_registry import cards

    model = flexframe.load(GOLDEN)
    raw = model.config.model_dump(mode="json", exclude_none=True)
    parts = [f"{part}={json.dumps(raw[part])}" for part in ("encoder", "quantizer", "decoder")]
    run = [f"run.init={GOLDEN}", "run.data=digits", "run.steps=2", "run.batch_size=2", "run.optimizer.warmup=0"]
    config = cards().get("flowmo/digits-tiny").train([*parts, "image_size=16", "length=5", *run])
    found = go(Run.create(config, tmp_path / "run", torch.device("cpu"), {})).trainee.model
    assert found.spec.tokens.length == 5
    before, after = model.encoder.blocks[0].tokens.in_proj.weight, found.encoder.blocks[0].tokens.in_proj.weight
    assert 0 < (before - after).abs().max() < 0.01
    torch.testing.assert_close(before.norm(), after.norm())
