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

GOLDEN = shared(Path(__file__)) / "golden" / "semanticist" / "tokenizer"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]
GIVEN = {
    "images",
    "vae_eps",
    "slots",
    "x_t",
    "timesteps",
    "drop_mask_mixed",
    "noise",
    "model_out",
    "q_sample_t",
    "vb_t",
}
GIVEN |= {"vb_t", "spaced_t", "x_start", "drop_path_bernoulli", "cond_drop_uniform", "keep", "repa_target"}


@pytest.mark.slow
def test_every_tensor_of_every_case():
    found = check("semanticist/tokenizer", verify_folder(GOLDEN))
    compared = {(c.case, c.tensor) for c in found}
    for path in GOLDEN.glob("case*.safetensors"):
        with safe_open(path, framework="pt") as case:
            given = GIVEN - ({"slots"} if path.stem == "case_encode" else set())
            wanted = {name for name in case.keys() if name not in given and not name.endswith("_noise")}  # noqa: SIM118
        assert {(path.stem, name) for name in wanted} <= compared
    norms = [c for c in found if c.tensor.startswith("norm.")]
    assert len(norms) == 2 * len(json.loads((GOLDEN / "case_train_nested_grad_norms.json").read_text()))
    assert any(c.largest > 0 for c in norms)


@torch.no_grad()
def test_pixels_to_tokens_and_back_as_a_user_does_it(tmp_path):
    case, sample = (load_file(GOLDEN / f"case_{name}.safetensors") for name in ("encode", "sample"))
    model = flexframe.load(GOLDEN)
    assert (model.sampling.steps, model.sampling.spacing) == (4, "even")
    tokens = model.encode(case["images"])
    assert torch.allclose(tokens.values, case["slots"], atol=2e-5)
    noise = sample["keep3_step_noise"]
    draws = {f"decoder/sample/{3 - i}": each for i, each in enumerate(noise)}
    rng = TableRng({"decoder/sample": sample["keep3_init_noise"], **draws}, 2)
    images = model.decode(model.tokens(sample["slots"]).truncate(3), rng=rng)
    assert torch.allclose(images, sample["keep3_pixels"].clamp(0, 1), atol=2e-4)


def test_an_ema_pickle_of_what_learns(tmp_path):
    """As published: no config, no VAE, names as torch.compile leaves them."""
    tensors, names = load_file(GOLDEN / "model.safetensors"), json.loads((GOLDEN / "ema_pickle_keys.json").read_text())
    wrapped = {name.replace("dit.", "dit._orig_mod.", 1): tensors[name] for name in names}
    torch.save(wrapped, tmp_path / "tiny.pkl")
    assume = {"tiny_sizes.encoder.heads": 2, "tiny_sizes.dit.heads": 2}
    with pytest.raises(flexframe.ConfigError, match=r"tiny_sizes\.encoder\.heads: is not given"):
        flexframe.load(tmp_path / "tiny.pkl")
    model, whole = flexframe.load(tmp_path / "tiny.pkl", assume=assume), flexframe.load(GOLDEN)
    images = load_file(GOLDEN / "case_encode.safetensors")["images"]
    assert model.config.codec.type == "identity"
    assert torch.equal(model.encode(images).values, whole.encode(images).values)  # pixels need no VAE
    with pytest.raises(ValueError, match="gives 16-channel latents and has no codec"):
        model.decode(model.encode(images), sampling={"steps": 1})
