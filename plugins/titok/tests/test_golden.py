"""Parity with the published implementation, through the importer, on tensors that it computed with random weights."""

from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny"
INPUTS = {"images", "eps", "target_codes", "ids", "condition"}
pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED"),
]


@cache
def verified(name):
    """All comparisons of a folder."""
    return verify_folder(GOLDEN / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vq_legacy", "vae", "maskgit_vit", "maskgit_uvit"])
def test_every_tensor_of_every_case(name):
    found = check(f"titok/{name}", verified(name))
    wanted = set()
    for path in (GOLDEN / name).glob("case*.safetensors"):
        with safe_open(path, framework="pt") as case:
            wanted |= {(path.stem, tensor) for tensor in case.keys() if tensor not in INPUTS}  # noqa: SIM118
    compared = {(c.case, c.tensor) for c in found}
    assert wanted <= compared
    assert {tensor for case, tensor in compared - wanted} <= {"gradient norms"}


@pytest.mark.slow
def test_gradients_and_norms_are_among_them():
    found = verified("vq_legacy")
    gradients = [c for c in found if c.tensor.startswith("grad.") and c.case == "case_train_stage1"]
    assert len(gradients) > 50
    assert all(c.largest > 0 for c in gradients)
    (norms,) = (c for c in found if c.tensor == "gradient norms")
    assert norms.note == "of 75, relative"
    assert any(c.note == "encode, then decode" for c in found)
