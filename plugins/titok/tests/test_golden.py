"""Parity with the published implementation, on tensors that it computed with random weights."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from flexframe_registry import LatentSpec, Spec, TokenSpec
from flexframe_titok import LatentTokenEncoderConfig, MaskTokenDecoderConfig, PixelDecoderConfig
from flexframe_titok.decoder import MaskTokenDecoder
from flexframe_titok.encoder import LatentTokenEncoder
from flexframe_titok.reference import convert, translate
from safetensors.torch import load_file
from torch.nn import functional as F

from flexframe.rng import Rng
from flexframe.testing.golden import assert_parity, shared
from flexframe.tokens import Batch, Tokens

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")

LENGTH, ROWS, COMMITMENT = 8, torch.arange(2), 0.25
IMAGES = LatentSpec(3, 64, 64, (0.0, 1.0))
PIXELS = PixelDecoderConfig(dim=32, hidden=32, multipliers=(1, 1, 1, 1, 2))
TINY = {"width": 64, "depth": 2, "heads": 2, "patch": 16}


@cache
def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def slots(grid):
    """The reference's `b d 1 k` as `b k d`."""
    return grid.squeeze(2).transpose(1, 2)


class Model:
    """The parts of a published model, with its projection and codebook as plain tensors between them."""

    def __init__(self, name, dim, encoder, decoder):
        spec = Spec(IMAGES, encoder.width, TokenSpec(LENGTH, dim))
        self.encoder, self.decoder = LatentTokenEncoder(encoder, spec), MaskTokenDecoder(decoder, spec)
        weights = golden(f"{name}/model")
        self.encoder.load_state_dict(convert(weights, "encoder"))
        state = convert(weights, "decoder")
        if decoder.head == "proxy-codes" and decoder.pixel_decoder is None:
            state = {key: t for key, t in state.items() if not key.startswith("pixels.")}
        self.decoder.load_state_dict(state)
        self.own = {key: t.clone().requires_grad_() for key, t in convert(weights, "quantizer").items()}

    def project(self, images):
        keep = torch.ones(len(images), LENGTH, dtype=torch.bool)
        return F.linear(self.encoder(images, keep), self.own["projection.weight"], self.own["projection.bias"])

    def quantize(self, z):
        """Facts C.2: both sides normalised, the nearest code, straight through; the losses of both directions."""
        z, codebook = F.normalize(z, dim=-1), F.normalize(self.own["codebook"], dim=-1)
        codes = torch.cdist(z.detach().flatten(0, 1), codebook.detach()).argmin(1).view(z.shape[:2])
        looked_up = codebook[codes]
        commitment = COMMITMENT * F.mse_loss(z, looked_up.detach())
        return z + (looked_up - z).detach(), looked_up, codes, commitment, F.mse_loss(looked_up, z.detach())

    def outputs(self, values):
        codes = torch.zeros(*values.shape[:2], 1, dtype=torch.long)
        tokens = Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool), codes)
        return self.decoder(tokens, Batch(ROWS), taps=frozenset(), rng=Rng(0, ROWS))

    def gradients(self):
        """Every parameter's gradient, by our names."""
        named = {f"encoder.{n}": p.grad for n, p in self.encoder.named_parameters()}
        named |= {f"quantizer.{n}": p.grad for n, p in self.own.items()}
        return named | {f"decoder.{n}": p.grad for n, p in self.decoder.named_parameters()}


def check_gradients(case, found):
    """Each `grad.*` of a case, to 1e-3 of the value or 1e-4 of the tensor's largest one."""
    wanted = {name.removeprefix("grad."): t for name, t in golden(case).items() if name.startswith("grad.")}
    parts = ("encoder", "quantizer", "decoder")
    renamed = {f"{part}.{name}": t for part in parts for name, t in convert(wanted, part).items()}
    assert len(renamed) == len(wanted)
    for name, gradient in renamed.items():
        largest = float(gradient.abs().max())
        assert_parity(f"grad {name} (largest {largest:.1e})", found[name], gradient, atol=1e-4 * largest, rtol=1e-3)


def two_stage(stage):
    decoder = MaskTokenDecoderConfig(**TINY, head="proxy-codes", pixel_decoder=PIXELS if stage == 2 else None)
    return Model("vq_legacy", 12, LatentTokenEncoderConfig(**TINY, legacy=True), decoder)


def test_legacy_encoder_and_ids():
    case = golden("vq_legacy/case_eval")
    model = two_stage(1)
    with torch.no_grad():
        z = model.project(case["images"])
        values, _, codes, commitment, codebook = model.quantize(z)
    assert_parity("enc_z", z, slots(case["enc_z"]))
    assert_parity("indices", codes, case["indices"][:, 0])
    assert_parity("z_quantized", values, slots(case["z_quantized"]))
    assert_parity("commitment_loss", commitment[None], case["commitment_loss"])
    assert_parity("codebook_loss", codebook[None], case["codebook_loss"])


def test_stage1_logits():
    case = golden("vq_legacy/case_eval")
    model = two_stage(1)
    with torch.no_grad():
        values, looked_up, *_ = model.quantize(model.project(case["images"]))
        assert_parity("stage1_logits", model.outputs(values).logits, case["stage1_logits"])
        assert_parity("decode_tokens_logits", model.outputs(looked_up).logits, case["stage1_decode_tokens_logits"])


def test_stage2_pixels():
    case = golden("vq_legacy/case_eval")
    model = two_stage(2)
    with torch.no_grad():
        soft = model.decoder.pixels.soft_codes(case["stage1_logits"])
        assert_parity("stage2_soft_code", soft, case["stage2_soft_code"])
        values, looked_up, *_ = model.quantize(model.project(case["images"]))
        pixels, from_codes = model.outputs(values).reconstruction, model.outputs(looked_up).reconstruction
    assert_parity("stage2_pixels", pixels, case["stage2_pixels"], atol=2e-4)
    assert_parity("stage2_decode_tokens_pixels", from_codes, case["stage2_decode_tokens_pixels"], atol=2e-4)


def test_stage1_training():
    case = golden("vq_legacy/case_train_stage1")
    model = two_stage(1)
    values, _, codes, commitment, codebook = model.quantize(model.project(case["images"]))
    logits = model.outputs(values).logits
    reconstruction = F.cross_entropy(logits.flatten(2), case["target_codes"])
    total = reconstruction + commitment + codebook
    total.backward()
    assert_parity("indices", codes, case["indices"][:, 0])
    assert_parity("logits", logits, case["logits"])
    for name, loss in {
        "commitment_loss": commitment,
        "codebook_loss": codebook,
        "quantizer_loss": commitment + codebook,
        "reconstruction_loss": reconstruction,
        "total_loss": total,
    }.items():
        assert_parity(name, loss[None], case[name], atol=0.0, rtol=1e-5)
    check_gradients("vq_legacy/case_train_stage1", model.gradients())
    norms = json.loads((GOLDEN / "vq_legacy/case_train_stage1_grad_norms.json").read_text())
    norms = {translate(name): norm for name, norm in norms.items()}
    found = {name: float(gradient.norm()) for name, gradient in model.gradients().items()}
    assert found == pytest.approx(norms, rel=1e-3)


def test_stage2_training():
    case = golden("vq_legacy/case_train_stage2")
    model = two_stage(2)
    with torch.no_grad():  # encoder and quantizer are frozen in stage 2
        values, *_ = model.quantize(model.project(case["images"]))
    pixels = model.outputs(values).reconstruction
    mse = F.mse_loss(pixels, case["images"])
    mse.backward()
    assert_parity("pixels", pixels, case["pixels"], atol=2e-4)
    assert_parity("mse", mse[None], case["mse"], atol=0.0, rtol=1e-5)
    check_gradients("vq_legacy/case_train_stage2", model.gradients())


def test_single_stage_vae():
    case = golden("vae/case_eval")
    decoder = MaskTokenDecoderConfig(width=96, depth=3, heads=3, patch=16)
    model = Model("vae", 16, LatentTokenEncoderConfig(**TINY), decoder)
    with torch.no_grad():
        z = model.project(case["images"])
        mean, logvar = z.chunk(2, -1)
        logvar = logvar.clamp(-30, 20)
        sampled = mean + (0.5 * logvar).exp() * slots(case["eps"])
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(-1)
        assert_parity("enc_z", z, slots(case["enc_z"]))
        assert_parity("mean", mean, slots(case["mean"]))
        assert_parity("logvar", logvar, slots(case["logvar"]))
        assert_parity("z_sampled", sampled, slots(case["z_sampled"]))
        assert_parity("kl", kl, case["kl"], rtol=1e-5)
        assert_parity("pixels_mode", model.outputs(mean).reconstruction, case["pixels_mode"])
        assert_parity("pixels_sampled", model.outputs(sampled).reconstruction, case["pixels_sampled"])
