"""What becomes of an image file's pixels."""

import numpy as np
import pytest
from PIL import Image

from flexframe.data.images import BrokenImage, read_image


def read(tmp_path, image, suffix="png", **options):
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    found = read_image(path, "image")
    assert found.mode == "RGB"
    return np.asarray(found)


def test_alpha_is_laid_over_white(tmp_path):
    pixels = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [200, 0, 100, 51]]], dtype=np.uint8)
    found = read(tmp_path, Image.fromarray(pixels))
    assert found[0, :2].tolist() == [[200, 0, 100], [255, 255, 255]]
    assert np.abs(found[0, 2].astype(int) - [244, 204, 224]).max() <= 1


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    found = read(tmp_path, image, transparency=1)
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        found = read(tmp_path, Image.fromarray(values), suffix)
        assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_grey_and_one_bit_images_have_three_equal_channels(tmp_path):
    grey = np.array([[0, 77, 255]], dtype=np.uint8)
    assert read(tmp_path, Image.fromarray(grey))[0].tolist() == [[0] * 3, [77] * 3, [255] * 3]
    assert read(tmp_path, Image.fromarray(grey).convert("1"))[0, [0, 2]].tolist() == [[0] * 3, [255] * 3]


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for suffix in ("tif", "jpg"):
        assert np.abs(read(tmp_path, image, suffix).astype(int) - [255, 0, 0]).max() <= 3


def test_pixels_without_a_range_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.0, 1e6]], dtype=np.float32)).save(path)
    with pytest.raises(BrokenImage, match=r"cannot read image float: its pixels are 32-bit numbers \(mode F\)"):
        read_image(path, "float")


def test_the_first_frame_is_taken(tmp_path):
    red, blue = (Image.new("RGB", (2, 2), colour) for colour in ("red", "blue"))
    assert read(tmp_path, red, "gif", save_all=True, append_images=[blue])[0, 0].tolist() == [255, 0, 0]


def test_too_many_pixels_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("1", (300, 300)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(BrokenImage, match=r"cannot read image large: .*90000 pixels"):
        read_image(path, "large")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(40), b"GIF89a" + bytes(9)])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(BrokenImage, match=r"cannot read image shown: .+; repair or remove the file"):
        read_image(path, "shown")
