"""Parity of MaskGIT-VQGAN with the published implementation, through the importer, and as parts under training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flexframe.importing.verify import verify_folder
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.testing.golden import assert_parity, shared
from flexframe.testing.parity import check
from flexframe.tokens import Batch

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny" / "pixel_vqgan"
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]


def test_every_tensor():
    found = check("maskgit-vqgan", verify_folder(GOLDEN))
    assert {c.tensor for c in found} == load_file(GOLDEN / "case.safetensors").keys() - {"images"}
    assert any(c.note == "encode, then decode" for c in found)


@torch.no_grad()
def test_training_passes_the_same_pixels():
    case, model, rows = load_file(GOLDEN / "case.safetensors"), load(GOLDEN), torch.arange(2)
    out = model(Batch(rows, case["images"]), rng=Rng(0, rows))
    golden = case["decoded_clamped_0_1"]
    inside = ((golden > 0) & (golden < 1)).float().mean()
    assert inside > 0.2, "what is clamped on both sides compares nothing"
    assert_parity("reconstruction", out.reconstruction.clamp(0, 1), golden)
