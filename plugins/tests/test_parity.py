"""Every golden checkpoint through its importer: the reference's numbers. Skips where the tensors are absent."""

from pathlib import Path

import pytest

from flexframe.importing.verify import verify_folder
from flexframe.testing.golden import shared
from flexframe.testing.parity import check

GOLDEN = shared(Path(__file__)) / "golden"
FOLDERS = (
    "flextok_tiny",
    "flextok_tiny_vae",
    "titok_tiny/vq_legacy",
    "titok_tiny/vae",
    "titok_tiny/pixel_vqgan",
    "titok_tiny/maskgit_vit",
    "titok_tiny/maskgit_uvit",
    "titok_tiny/rar",
)


@pytest.mark.parity
@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")
@pytest.mark.parametrize("folder", FOLDERS)
def test_an_import_gives_the_numbers_of_the_reference(folder):
    check(folder.split("/")[-1], verify_folder(GOLDEN / folder))
