"""What becomes of an image file's pixels."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from flexframe.data.images import BrokenImage, formats, read_image, to_rgb, to_tensor


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


def png(width, depth, colour, rows, *chunks):
    """A PNG of one row of pixels, as bytes, with chunks before them."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    between = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + between + chunk(b"IDAT", zlib.compress(b"\0" + rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "clear", "shown"),
    [
        (2, 0, bytes([0b11010000]), [3], [255, 85, 0, 0]),
        (4, 0, bytes([0x51, 0xF0]), [5], [255, 17, 255, 0]),
        (8, 0, bytes([7, 8, 0, 9]), [7], [255, 8, 0, 9]),
        (16, 0, struct.pack(">4H", 0, 257, 1, 65535), [0], [255, 1, 0, 255]),
        (16, 2, np.repeat([0x1200, 0, 65535, 0x8000], 3).astype(">u2").tobytes(), [0x1200] * 3, [255, 0, 255, 128]),
    ],
    ids=["grey-2", "grey-4", "grey-8", "grey-16", "colour-16"],
)  # fmt: skip
def test_the_transparent_colour_of_any_depth_is_white(depth, colour, rows, clear, shown):
    content = png(4, depth, colour, rows, (b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    assert np.asarray(read_image(BytesIO(content), "image"))[0, :, 0].tolist() == shown


LONG = zlib.compress(b"A" * 2_000_000)
ORIENTED = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x tiff:Orientation="3"/>'


@pytest.mark.slow
@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"workflow\0\0" + LONG)],
        [(b"iTXt", b"workflow\0\1\0\0\0" + LONG)],
        [(b"iCCP", b"profile\0\0" + LONG)],
        [(b"tEXt", b"workflow\0" + b"A" * 40_000_000), (b"tEXt", b"prompt\0" + b"A" * 40_000_000)],
        [(b"zTXt", b"Raw profile type exif\0\0" + LONG)],
    ],
    ids=["text", "international", "profile", "much-text", "turning"],
)
def test_long_texts_and_profiles_of_a_png_are_passed_over(chunks, tmp_path):
    content = png(3, 8, 0, bytes([1, 2, 3]), *chunks[:1], (b"iTXt", ORIENTED), *chunks[1:])
    (tmp_path / "a.png").write_bytes(content)
    for file in (BytesIO(content), tmp_path / "a.png"):
        assert np.asarray(read_image(file, "image"))[0, :, 0].tolist() == [3, 2, 1]


def test_a_flipped_bit_of_a_png_is_told():
    """Pillow takes one in ten, and gives another picture."""
    whole = png(12, 8, 0, bytes(range(12)))
    pixels, first = np.asarray(read_image(BytesIO(whole), "a")), whole.index(b"IDAT") + 4
    for bit in range(8 * first, 8 * whole.index(b"IEND") - 64):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BrokenImage, match=r"^cannot read image a: .*; repair or remove the file$"):
            read_image(BytesIO(bytes(content)), "a")
    assert pixels[0, :, 0].tolist() == list(range(12))


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


def test_the_limit_of_pixels_is_the_callers(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (30, 20)).save(path)
    assert read_image(path, "image", 600).size == (30, 20)
    with pytest.raises(BrokenImage, match=r"cannot read image image: it has 30 x 20, 600 pixels; at most 599 are read"):
        read_image(path, "image", 599)


def test_sixteen_bit_colour_keeps_its_upper_bytes(tmp_path):
    """Pillow reads no other way; written by hand, for it writes none."""
    values = np.array([[[0, 255, 256], [0x80FF, 0xFFFF, 0x1234]]], dtype=">u2")
    path = tmp_path / "colour.png"
    path.write_bytes(png_of(values))
    assert np.asarray(read_image(path, "image")).tolist() == [[[0, 0, 1], [0x80, 0xFF, 0x12]]]


def png_of(values):
    """A PNG file of 16-bit RGB values, `h w 3`."""
    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    packed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


STORED = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left", 5: "left top", 6: "right top"}
STORED |= {7: "right bottom", 8: "left bottom"}
"""By EXIF's number, the side of the scene that the file's first row and its first column show (EXIF 2.32, 4.6.4)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_each_orientation_is_undone(tmp_path, orientation, suffix):
    shown = np.zeros((96, 64, 3), dtype=np.uint8)
    shown[:48, :32, 0], shown[:48, 32:, 1], shown[48:, :32, 2] = 255, 255, 255
    row, column = STORED[orientation].split()
    camera = shown if row in ("top", "bottom") else shown.transpose(1, 0, 2)
    camera = camera[::-1] if row in ("bottom", "right") else camera
    camera = camera[:, ::-1] if column in ("bottom", "right") else camera
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(camera)).save(path, exif=exif)
    found = np.asarray(read_image(path, "image")).astype(int)
    assert found.shape == (96, 64, 3)
    assert np.abs(found - shown)[24::48, 16::32].max() <= 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "LAB", "YCbCr", "HSV", "P", "1"])
def test_every_mode_becomes_rgb(mode):
    base = Image.new("RGB", (5, 4), (200, 40, 90))
    through = {"PA": "P", "RGBa": "RGBA", "LA": "L"}.get(mode)
    if mode == "LAB":
        image = Image.new("LAB", (5, 4), (128, 128, 128))
    else:
        image = (base.convert(through) if through else base).convert(mode)
    found = to_rgb(image)
    assert (found.mode, found.size) == ("RGB", (5, 4))


def test_premultiplied_alpha_is_laid_over_white_too():
    image = Image.new("RGBA", (1, 1), (200, 0, 100, 51)).convert("RGBa")
    assert np.abs(np.asarray(to_rgb(image))[0, 0].astype(int) - [244, 204, 224]).max() <= 2


def test_an_upright_photograph_is_decoded_once_and_not_copied():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert to_rgb(image) is image
    found = to_tensor(image)
    assert found.is_contiguous()
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels)
    assert formats()[0] == "JPEG"  # what is tried before it reads the file's beginning, too
