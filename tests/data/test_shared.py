"""Real photographs, where they are: Kodak's, as the suite `kodak-256` reads them."""

import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from flexframe.data.images import to_tensor
from flexframe.testing.golden import shared
from flexframe_registry import catalogue, suite

KODAK = shared(Path(__file__)) / "data" / "kodak24.tar"
pytestmark = [pytest.mark.parity, pytest.mark.skipif(not KODAK.is_file(), reason=f"{KODAK} is not there")]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXFRAME_HOME", str(tmp_path / "home"))


def test_kodak_as_a_tar_and_as_a_folder_is_torchvisions_middle_square(tmp_path):
    with tarfile.open(KODAK) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):  # Python 3.11.2 has no `filter` for all at once
            path = tmp_path / member.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    found = [
        catalogue().build(suite("kodak-256", [f"data.path={path}"]).data, (256, 256)) for path in (KODAK, tmp_path)
    ]
    assert [len(each) for each in found] == [24, 24]
    assert [found[0][i].id for i in (0, 23)] == ["kodak24/kodak/01.png", "kodak24/kodak/24.png"]
    for i in (0, 3, 23):  # an upright one among them
        path = tmp_path / "kodak" / f"{i + 1:02}.png"
        with Image.open(path) as image:
            expected = to_tensor(CenterCrop(256)(Resize(256, InterpolationMode.BICUBIC)(image.convert("RGB"))))
        assert all(torch.equal(each[i].image, expected) for each in found)
