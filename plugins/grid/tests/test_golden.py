"""Parity of MaskGIT-VQGAN with the published implementation, on tensors that it computed with random weights."""

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.rng import Rng
from flexframe.testing.golden import assert_parity, shared
from flexframe.tokenizer import Tokenizer
from flexframe.tokens import Batch
from flexframe_grid.reference import convert
from flexframe_registry import TokenizerConfig

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny" / "pixel_vqgan"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]

ROWS = torch.arange(2)
KEEP = torch.ones(2, 16, dtype=torch.bool)


@cache
def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


@cache
def vqgan():
    """The reference's tiny model: 64 pixels, a grid of 4 x 4."""
    part = {"type": "vqgan", "hidden": 32, "multipliers": (1, 1, 1, 1, 2)}
    quantizer = {"type": "vq", "codebook_size": 1024, "dim": 32, "l2_norm": False}
    raw = {"image_size": 64, "length": 16, "encoder": part, "quantizer": quantizer, "decoder": part}
    model = Tokenizer(TokenizerConfig.read(raw))
    model.load_state_dict(convert(golden("model")))
    return model.eval()


@torch.no_grad()
def test_encoding():
    case, model = golden("case"), vqgan()
    features = model.encoder(case["images"], KEEP)
    assert_parity("enc_out", model.quantizer.project(features), case["enc_out"].flatten(2).transpose(1, 2))
    assert_parity("codes", model.encode(case["images"]).codes[..., 0], case["codes"])


@torch.no_grad()
def test_decoding():
    case, model = golden("case"), vqgan()
    decoded = model.decode(model.tokens(case["codes"]))
    assert_parity("decoded_clamped_0_1", decoded, case["decoded_clamped_0_1"])
    inside = ((decoded > 0) & (decoded < 1)).float().mean()
    assert inside > 0.2, "what is clamped on both sides compares nothing"
    assert_parity("decoded from images", model.decode(model.encode(case["images"])), case["decoded_clamped_0_1"])


@torch.no_grad()
def test_training_passes_the_same_pixels():
    case, model = golden("case"), vqgan()
    out = model(Batch(ROWS, case["images"]), rng=Rng(0, ROWS))
    assert_parity("reconstruction", out.reconstruction.clamp(0, 1), case["decoded_clamped_0_1"])
