"""Parity with the published implementation, through the importer, on tensors that it computed with random weights."""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check

SHARED = shared(Path(__file__)) / "golden"
CASES = {"rar": SHARED / "titok_tiny" / "rar", "eps-llamagen": SHARED / "semanticist" / "ellamagen"}
GIVEN = re.compile(
    r"ids|condition|orders|slots|[txz]|noise|noise_.*|class_drop_uniform",
)
"""What results were computed from."""


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_every_tensor_of_every_case(name):
    folder = CASES[name]
    if not folder.is_dir():
        pytest.skip(f"no golden tensors at {folder}; set FLEXFRAME_SHARED")
    found = check(name, verify_folder(folder))
    compared = {(c.case, c.tensor) for c in found}
    for path in folder.glob("case*.safetensors"):
        wanted = {(path.stem, each) for each in load_file(path) if not GIVEN.fullmatch(each)}
        assert not wanted - compared, path
