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

GOLDEN = shared(Path(__file__)) / "golden" / "gigatok" / "tokenizer"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]
GIVEN = {
    "case_encode": {"images"},
    "case_decode": {"z_quantized", "indices"},
    "case_train": {"images", "distill_target"},
    "case_quantizer": {"z", "entropy_affinity"},
}


@pytest.fixture(scope="module")
def model():
    return flexframe.load(GOLDEN)


@pytest.mark.slow
def test_every_tensor_of_every_case():
    found = check("gigatok/tokenizer", verify_folder(GOLDEN))
    compared = {(c.case, c.tensor) for c in found}
    for path in GOLDEN.glob("case*.safetensors"):
        with safe_open(path, framework="pt") as case:
            wanted = set(case.keys()) - GIVEN[path.stem]
        assert {(path.stem, name) for name in wanted} <= compared
    norms = [c for c in found if c.tensor.startswith("norm.")]
    assert len(norms) == len(json.loads((GOLDEN / "case_train_grad_norms.json").read_text()))


@torch.no_grad()
def test_pixels_to_tokens_and_back_as_a_user_does_it(model):
    encode, decode = (load_file(GOLDEN / f"case_{name}.safetensors") for name in ("encode", "decode"))
    tokens = model.encode(encode["images"] / 2 + 0.5)
    assert torch.equal(tokens.codes, encode["indices"].mT)
    images = model.decode(tokens)
    assert torch.allclose(images, (decode["pixels"] / 2 + 0.5).clamp(0, 1), atol=1e-4)


def test_a_file_as_published(tmp_path, model):
    """Weights under `ema`, beside others, and no config."""
    tensors = load_file(GOLDEN / "model.safetensors")
    torch.save(
        {"ema": tensors, "model": tensors, "discriminator": {"x": torch.zeros(1)}, "steps": 3}, tmp_path / "a.pt"
    )
    assume = {f"tiny_sizes.sizes.{part}.heads": 2 for part in ("encoder", "decoder")}
    with pytest.raises(flexframe.ConfigError, match=r"tiny_sizes\.sizes\.encoder\.heads: is not given"):
        flexframe.load(tmp_path / "a.pt", entry="ema")
    found = flexframe.load(tmp_path / "a.pt", entry="ema", assume=assume)
    assert found.config == model.config


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("model.model_cls", "VQModel", "model.model_cls: is 'VQModel', which is not supported"),
        ("model.init_args.use_attn", True, "use_attn: is True, which is not supported"),
        ("model.init_args.decoder_ch_mult", [1, 1, 2], r"decoder_ch_mult: is \[1, 1, 2\], which is not supported"),
        ("model.init_args.encoder_size", "small", "encoder_size.width: is 512, but the tensors have 64"),
        ("model.init_args.num_latent_tokens", 9, "num_latent_tokens: is 9, but the tensors have 8"),
    ],
)
def test_a_config_of_something_else_is_refused(tmp_path, place, value, told):
    settings = json.loads((GOLDEN / "config.json").read_text())
    *path, name = place.split(".")
    inner = settings
    for step in path:
        inner = inner[step]
    inner[name] = value
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").symlink_to(GOLDEN / "model.safetensors")
    with pytest.raises(flexframe.ConfigError, match=told):
        flexframe.load(tmp_path)
