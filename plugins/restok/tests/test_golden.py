"""Parity with the reference implementation's tensors (random weights, fp32, CPU), through the importer."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import flexframe
from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check
from flexframe_registry import ConfigError

GOLDEN = shared(Path(__file__)) / "golden" / "restok" / "tokenizer"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]
GIVEN = {
    "case_encode": {"images"},
    "case_decode": {"z_quantized", "indices", "lengths_mixed"},
    "case_train": {"images", "keep", "aux_cls", "aux_feature"},
}


@pytest.fixture(scope="module")
def model():
    return flexframe.load(GOLDEN)


@pytest.fixture
def copied(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path)
    return tmp_path


def rewritten(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["vq_model"] |= settings
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.slow
def test_every_tensor_of_every_case():
    found = check("restok/tokenizer", verify_folder(GOLDEN))
    compared = {(c.case, c.tensor) for c in found}
    for case, given in GIVEN.items():
        with safe_open(GOLDEN / f"{case}.safetensors", framework="pt") as file:
            assert {(case, name) for name in file.keys() if name not in given} <= compared  # noqa: SIM118
    norms = [c for c in found if c.tensor.startswith("norm.")]
    assert len(norms) == len(json.loads((GOLDEN / "case_train_grad_norms.json").read_text()))
    assert all(c.largest > 0 for c in norms)


@torch.no_grad()
def test_images_to_codes_and_back_as_a_user_does_it(model):
    encoded, decoded = (load_file(GOLDEN / f"case_{name}.safetensors") for name in ("encode", "decode"))
    tokens = model.encode(encoded["images"])
    assert torch.equal(tokens.codes.mT, encoded["indices"])
    assert model.config.budgets == (2, 4, 8)
    whole = model.decode(model.tokens(decoded["indices"].mT), size=(64, 64))
    torch.testing.assert_close(whole, decoded["pixels_len8"].clamp(0, 1), atol=2e-4, rtol=0)
    shown = model.decode(model.tokens(decoded["indices"].mT).truncate(4), size=(64, 64))
    torch.testing.assert_close(shown, decoded["pixels_len4"].clamp(0, 1), atol=2e-4, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_the_form_of_use_gives_the_same_pixels(model, tmp_path, caplog):
    """Its config, and no tensors that serve training alone."""
    tensors = load_file(GOLDEN / "model.safetensors")
    left = {name: value for name, value in tensors.items() if not name.startswith("vf_") and "feat_mask" not in name}
    save_file(left, tmp_path / "model.safetensors")
    shutil.copy(GOLDEN / "config_inference.json", tmp_path / "config.json")
    used = flexframe.load(tmp_path)
    assert not used.config.decoder.semantic
    assert (used.config.masker.drop, used.config.budgets) == (0.0, (2, 4, 8))
    assert "drops no tokens; to train on as published, set masker.drop=0.2" in caplog.text
    images = load_file(GOLDEN / "case_encode.safetensors")["images"]
    assert torch.equal(used.decode(used.encode(images)), model.decode(model.encode(images)))


def test_a_pickle_without_a_config_asks_for_one(tmp_path):
    torch.save(load_file(GOLDEN / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"has no config\. Put the yaml .* or name a card whose weights it is"):
        flexframe.load(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_latent_tokens": 16}, r"num_latent_tokens: is 16, whose levels are 5, and the tensors are of 4"),
        ({"codebook_size": 512}, r"codebook_size: is 512, but the tensors have 256"),
        ({"vit_enc_model_size": "large"}, r"vit_enc_model_size: is 'large', width 1024, .*; the tensors have width 64"),
        ({"vit_dec_patch_size": 8}, r"vit_dec_patch_size: is 8, but the tensors have 16"),
        ({"reduction_ratio": 0.4}, r"reduction_ratio: is 0.4, which makes one cell of no whole number"),
        ({"is_legacy": False}, r"is_legacy: is False, which is not supported"),
        ({"novel": 3}, r"novel: 3 is unknown here"),
    ],
)
def test_a_config_of_something_else_is_refused(copied, settings, told):
    rewritten(copied, **settings)
    with pytest.raises(ConfigError, match=told):
        flexframe.load(copied)
