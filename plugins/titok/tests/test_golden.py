"""Parity with the published implementation, on tensors that it computed with random weights."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from flexframe.rng import Rng
from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.tables import TableRng
from flexframe.tokenizer import Tokenizer
from flexframe.tokens import Batch
from flexframe_registry import TokenizerConfig
from flexframe_titok.reference import convert, translate

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")

ROWS = torch.arange(2)
KEEP = torch.ones(2, 8, dtype=torch.bool)
NONE: frozenset[str] = frozenset()
TINY = {"width": 64, "depth": 2, "heads": 2, "patch": 16}
PIXELS = {"dim": 32, "hidden": 32, "multipliers": (1, 1, 1, 1, 2)}


@cache
def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def slots(grid):
    """The reference's `b d 1 k` as `b k d`."""
    return grid.squeeze(2).transpose(1, 2)


def build(name, encoder, quantizer, decoder):
    """A tokenizer with the reference's weights; of a two-stage model's, stage 1 takes what it has."""
    parts = {
        "encoder": {"type": "latent-tokens", **TINY, **encoder},
        "quantizer": quantizer,
        "decoder": {"type": "vit", **TINY, **decoder},
    }
    model = Tokenizer(TokenizerConfig.read({"image_size": 64, "length": 8, **parts}))
    state = convert(golden(f"{name}/model"))
    if decoder.get("head") == "proxy-codes" and "pixel_decoder" not in decoder:
        state = {key: tensor for key, tensor in state.items() if not key.startswith("decoder.pixels.")}
    model.load_state_dict(state)
    return model


def two_stage(**stage2):
    quantizer = {"type": "vq", "codebook_size": 512, "dim": 12, "l2_norm": True}
    return build("vq_legacy", {"legacy": True}, quantizer, {"head": "proxy-codes", **stage2})


def vae():
    return build("vae", {}, {"type": "kl", "dim": 16}, {"width": 96, "depth": 3, "heads": 3})


def check_gradients(case, model):
    """Each `grad.*` of a case, to 1e-3 of the value or 1e-4 of the tensor's largest one."""
    wanted = convert({name.removeprefix("grad."): t for name, t in golden(case).items() if name.startswith("grad.")})
    found = dict(model.named_parameters())
    for name, gradient in wanted.items():
        largest = float(gradient.abs().max())
        title = f"grad {name} (largest {largest:.1e})"
        assert_parity(title, found[name].grad, gradient, atol=1e-4 * largest, rtol=1e-3)


@torch.no_grad()
def test_legacy_encoding():
    case, model = golden("vq_legacy/case_eval"), two_stage().eval()
    features = model.encoder(case["images"], KEEP)
    quantized = model.quantizer(features, KEEP, rng=Rng(0, ROWS))
    assert_parity("enc_z", model.quantizer.project(features), slots(case["enc_z"]))
    assert_parity("indices", quantized.codes, case["indices"].transpose(1, 2))
    assert_parity("z_quantized", quantized.values, slots(case["z_quantized"]))
    assert_parity("commitment_loss", quantized.losses["commitment"].mean()[None], case["commitment_loss"])
    assert_parity("codebook_loss", quantized.losses["codebook"].mean()[None], case["codebook_loss"])
    assert_parity("encode", model.encode(case["images"]).codes, case["indices"].transpose(1, 2))


@torch.no_grad()
def test_stage1_logits():
    case, model = golden("vq_legacy/case_eval"), two_stage().eval()
    batch, rng = Batch(ROWS, case["images"]), Rng(0, ROWS)
    tokens = model.tokens(case["indices"][:, 0])
    from_codes = model.decoder(tokens, batch, taps=NONE, rng=rng).logits
    passed = model.decoder(replace(tokens, values=slots(case["z_quantized"])), batch, taps=NONE, rng=rng).logits
    assert_parity("stage1_logits", passed, case["stage1_logits"])
    assert_parity("stage1_decode_tokens_logits", from_codes, case["stage1_decode_tokens_logits"])


@torch.no_grad()
def test_stage2_pixels():
    case, model = golden("vq_legacy/case_eval"), two_stage(pixel_decoder=PIXELS).eval()
    batch, rng = Batch(ROWS, case["images"]), Rng(0, ROWS)
    tokens = model.tokens(case["indices"][:, 0])
    from_codes = model.decoder(tokens, batch, taps=NONE, rng=rng).reconstruction
    passed = model.decoder(replace(tokens, values=slots(case["z_quantized"])), batch, taps=NONE, rng=rng).reconstruction
    soft = model.decoder.pixels.soft_codes(case["stage1_logits"])
    assert_parity("stage2_soft_code", soft, case["stage2_soft_code"])
    assert_parity("stage2_pixels", passed, case["stage2_pixels"], atol=2e-4)
    assert_parity("stage2_decode_tokens_pixels", from_codes, case["stage2_decode_tokens_pixels"], atol=2e-4)
    shown = case["stage2_decode_tokens_pixels"].clamp(0, 1)
    assert_parity("decode", model.decode(model.encode(case["images"])), shown, atol=2e-4)


def test_stage1_training():
    case, model = golden("vq_legacy/case_train_stage1"), two_stage().train()
    out = model(Batch(ROWS, case["images"]), rng=Rng(0, ROWS))
    reconstruction = F.cross_entropy(out.logits.flatten(2), case["target_codes"])
    commitment, codebook = (out.losses[f"quantizer/{name}"].mean() for name in ("commitment", "codebook"))
    total = reconstruction + commitment + codebook
    total.backward()
    assert_parity("indices", out.codes.codes, case["indices"].transpose(1, 2))
    assert_parity("logits", out.logits, case["logits"])
    for name, loss in {
        "commitment_loss": commitment,
        "codebook_loss": codebook,
        "quantizer_loss": commitment + codebook,
        "reconstruction_loss": reconstruction,
        "total_loss": total,
    }.items():
        assert_parity(name, loss[None], case[name], atol=0.0, rtol=1e-5)
    check_gradients("vq_legacy/case_train_stage1", model)
    norms = json.loads((GOLDEN / "vq_legacy/case_train_stage1_grad_norms.json").read_text())
    found = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    assert found == pytest.approx({translate(name): norm for name, norm in norms.items()}, rel=1e-3)


def test_stage2_training():
    """In stage 2 the encoder and the quantizer are frozen, and the quantizer's losses do not count."""
    case, model = golden("vq_legacy/case_train_stage2"), two_stage(pixel_decoder=PIXELS).train()
    model.encoder.requires_grad_(False)
    model.quantizer.requires_grad_(False)
    out = model(Batch(ROWS, case["images"]), rng=Rng(0, ROWS))
    mse = F.mse_loss(out.reconstruction, case["images"])
    mse.backward()
    assert_parity("pixels", out.reconstruction, case["pixels"], atol=2e-4)
    assert_parity("mse", mse[None], case["mse"], atol=0.0, rtol=1e-5)
    check_gradients("vq_legacy/case_train_stage2", model)


@torch.no_grad()
def test_vae():
    case, model = golden("vae/case_eval"), vae()
    keep, rng = KEEP, TableRng({"quantizer/kl": slots(case["eps"])}, 2)
    z = model.quantizer.project(model.encoder(case["images"], keep))
    mean, logvar = model.quantizer.posterior(z)
    assert_parity("enc_z", z, slots(case["enc_z"]))
    assert_parity("mean", mean, slots(case["mean"]))
    assert_parity("logvar", logvar, slots(case["logvar"]))
    drawn = model.train()(Batch(ROWS, case["images"]), rng=rng)
    assert_parity("z_sampled", drawn.codes.codes, slots(case["z_sampled"]))
    assert_parity("pixels_sampled", drawn.reconstruction, case["pixels_sampled"])
    kl = drawn.losses["quantizer/kl"] / model.config.quantizer.weight
    assert_parity("kl", kl, case["kl"].sum(1), atol=0.0, rtol=1e-5)  # the reference keeps them by token
    shown = model.eval().decode(model.encode(case["images"]))
    assert_parity("pixels_mode", shown, case["pixels_mode"].clamp(0, 1))
