"""Parity with the published implementation, through the importer, on tensors that it computed with random weights."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check

GOLDEN = shared(Path(__file__)) / "golden" / "titok_tiny" / "rar"


@pytest.mark.parity
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}; set FLEXFRAME_SHARED")
def test_every_tensor_of_the_case():
    found = check("rar", verify_folder(GOLDEN))
    wanted = load_file(GOLDEN / "case.safetensors").keys() - {"ids", "condition", "orders"}
    assert {c.tensor for c in found} == wanted
