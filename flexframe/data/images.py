"""From an image file to the pixels that a model sees: one way, for training, measuring and use."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, ImageOps
from torch import Tensor

from flexframe.files import POINTED, is_pointer
from flexframe_registry.files import MAX_PIXELS

UNREAD = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by their first bytes, and of which it decodes none, or EPS by running Ghostscript."""
FIRST = "JPEG", "PNG", "WEBP"
"""Formats that are tried before others. Their first bytes are theirs alone, and some of the others look at more than
those before they give up."""
USUAL = ".png .jpg .jpeg .webp .bmp .tif .gif"
"""A few of `suffixes`, for errors."""
MOST_SCALED = 1 << 24
"""Pixels up to which a picture is enlarged in whole before it is cropped, as torchvision does. Of a larger one, as a
strip of 40,000 x 4 pixels becomes, the crop alone is computed."""
REMARKS = frozenset({b"iCCP", b"iTXt", b"tEXt", b"zTXt"})
"""Chunks of a PNG that hold its colour profile and texts."""
TURNING = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
"""Beginnings of texts that may hold an orientation."""
LONGEST = 1 << 18
"""Bytes of such a text that are read; a camera's are a few thousand."""
PORTION = 1 << 20
"""Bytes of pixels that are held to be compared with their checksum."""
TOO_LONG = ("MAX_TEXT_CHUNK", "Too much memory used in text chunks")
"""Words of Pillow's on texts and profiles of more than a megabyte, or of 64 in all."""
DEPTHS: Mapping[str, Callable[[int], int]] = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "RGB;16B": lambda value: value >> 8,
}
"""How Pillow brings the values of a PNG to 8 bits, by its name for how they are stored."""
OBJECT = re.compile(r" ?<_io\.\w+ [^>]*>|(?<=cannot identify image file) .*")
"""Pillow's words for a file: an object in memory, or the path, which an error names anyway."""
COLOUR = (
    "turned as its EXIF orientation says; alpha over white; 16-bit grey divided by 257, the upper byte of 16-bit "
    "colour; CMYK by Pillow's rule; profiles not applied; the first frame"
)


NO_FILE = "it is a pipe, a socket or a device, and no file"


class BrokenImage(ValueError):
    """An image that cannot be read."""


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that Pillow decodes on this machine, in the order in which they are tried."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - UNREAD, key=lambda name: (name not in FIRST, name)))


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of image files, in small letters with their dot: all that Pillow knows of the formats it decodes."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats())


def odd(path: Path) -> bool:
    """True for what is there and neither file nor folder: to open it may wait for ever."""
    return not path.is_file() and path.exists() and not path.is_dir()


def read_image(file: Path | BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file as 8-bit RGB, by the rules of `COLOUR`.

    Raises:
        BrokenImage: with `name` and the reason; more than `max_pixels` among them, told before any is decoded.
    """
    if isinstance(file, Path) and odd(file):
        raise BrokenImage(f"cannot read image {name}: {NO_FILE}")
    try:
        try:
            return _read(file, max_pixels)
        except ValueError as error:
            if not any(told in str(error) for told in TOO_LONG):
                raise
            return _read(without_remarks(file), max_pixels)
    except Exception as error:  # Pillow's decoders raise whatever they come upon in a broken file
        reason = OBJECT.sub("", str(error)) or type(error).__name__
        told = f"it {POINTED}" if _pointer(file) else f"{reason}; repair or remove the file"
        raise BrokenImage(f"cannot read image {name}: {told}") from error


def _pointer(file: Path | BytesIO) -> bool:
    with suppress(OSError), file.open("rb") if isinstance(file, Path) else nullcontext(file) as whole:
        whole.seek(0)
        return is_pointer(whole.read(100))
    return False


def _read(file: Path | BytesIO, max_pixels: int) -> Image.Image:
    with Image.open(file, formats=formats()) as opened:
        if opened.width * opened.height > max_pixels:
            size = f"{opened.width} x {opened.height}, {opened.width * opened.height} pixels"
            raise ValueError(f"it has {size}; at most {max_pixels} are read (max_pixels)")
        if opened.format == "PNG":
            _see_pixels(opened)
        return to_rgb(opened)


def _see_pixels(image: ImageFile.ImageFile) -> None:
    """See that the pixels of a PNG are as they were written. Pillow does not compare their checksums, and of flipped
    bits one in ten gives another picture.

    Raises:
        ValueError: they are not.
    """
    file = image.fp
    assert file is not None
    place = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        left, found = int.from_bytes(head[:4]), zlib.crc32(head[4:])
        if head[4:] != b"IDAT":
            file.seek(left + 4, os.SEEK_CUR)
            continue
        while left > 0 and (portion := file.read(min(left, PORTION))):
            found, left = zlib.crc32(portion, found), left - len(portion)
        if int.from_bytes(file.read(4)) != found:
            raise ValueError("its pixels are not as they were written: their checksum is another's")
    file.seek(place)


def without_remarks(file: Path | BytesIO) -> BytesIO:
    """A PNG without its colour profile and its texts, but those that say how it is turned: Pillow refuses the whole
    file for long ones, and none of them is in the pixels that are read here."""
    kept = BytesIO()
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as whole:
        whole.seek(0)
        kept.write(whole.read(8))
        while len(head := whole.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind in REMARKS:
                body = whole.read(min(length + 4, LONGEST))
                if len(body) < length + 4 or not _turning(kind, body):
                    whole.seek(length + 4 - len(body), os.SEEK_CUR)
                    continue
            else:
                body = whole.read(length + 4)
            kept.write(head + body)
    kept.seek(0)
    return kept


def _turning(kind: bytes, body: bytes) -> bool:
    """Whether a text, of no more than `LONGEST` bytes when it is unpacked, may say how the image is turned."""
    if kind == b"zTXt":
        unpacking = zlib.decompressobj()
        with suppress(zlib.error):
            unpacking.decompress(body.partition(b"\0")[2][1:], LONGEST)
        return body.startswith(TURNING) and not unpacking.unconsumed_tail
    return body.startswith(TURNING) and not (kind == b"iTXt" and body[body.index(b"\0") + 1])


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB: itself, if it is so.

    Raises:
        ValueError: pixels of no stated range.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    clear = _transparent(image)
    image = _upright(image)
    if clear is not None and image.info.get("transparency") != clear:
        image = image.copy()
        image.info["transparency"] = clear
    if sixteen:
        grey = np.asarray(image)
        image = Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))
        if clear is not None:  # Pillow compares it with 8 bits
            image.putalpha(Image.fromarray(np.where(grey == clear, 0, 255).astype(np.uint8)))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}) of no stated range; save it with 8 or 16")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says. Pillow's own way copies one that is upright."""
    image.load()
    if image.mode == "RGB" and image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _transparent(image: Image.Image) -> int | tuple[int, ...] | None:
    """The one colour of a PNG that is transparent, in numbers of the mode that Pillow gives: it scales pixels of other
    depths, and leaves this one as the file has it. Of palettes, what Pillow has."""
    held = image.info.get("transparency")
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" else ()
    stored = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in tiles]
    scaled = next((DEPTHS[name] for name in stored if name in DEPTHS), None)
    if scaled is None or held is None or isinstance(held, bytes):
        return held
    return tuple(map(scaled, held)) if isinstance(held, tuple) else scaled(held)


def to_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """An image's RGB pixels, 8 bits a value."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    planes = bytearray().join(image.tobytes("raw", band) for band in "RGB")  # one by one: nothing is transposed
    return torch.frombuffer(planes, dtype=torch.uint8).view(3, image.height, image.width)


# --- to size -------------------------------------------------------------------------------------------------------


def fit(
    image: Image.Image, size: tuple[int, int], resize: str, place: tuple[float, float] | None = None
) -> Image.Image:
    """An image that covers `size` (height, width), cropped to it; `resize` is one of `RESIZES`.

    Args:
        place: where the crop is, from the top and from the left, each in [0, 1) of where it can be; not given: in the
            middle, as the way of resizing has it.
    """
    way, (height, width) = RESIZES[resize], size
    image = way.shrink(image, size)
    across, down = way.scaled(image, size)
    spare = down - height, across - width
    top, left = (
        map(way.middle, spare) if place is None else (int(p * (s + 1)) for p, s in zip(place, spare, strict=True))
    )
    if across * down > max(MOST_SCALED, image.width * image.height):
        x, y = image.width / across, image.height / down  # the crop, in the picture's own pixels
        window = left * x, top * y, min((left + width) * x, image.width), min((top + height) * y, image.height)
        return image.resize((width, height), way.by, window)
    image = image if (across, down) == image.size else image.resize((across, down), way.by)
    return image.crop((left, top, left + width, top + height))


def _as_it_is(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image


def _shorter_edge(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height with the shorter edge at size, as torchvision's Resize has them."""
    height, width = size
    if height == width:  # torchvision's own rounding: the longer edge is truncated
        short = min(image.height, image.width)
        return int(height * image.width / short), int(height * image.height / short)
    return _covering(image, size)


def _covering(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that just cover a size, rounded."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    return max(width, round(image.width * scale)), max(height, round(image.height * scale))


def _halved(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image halved by boxes while it stays twice the size, as ADM (Dhariwal and Nichol, 2021) prepares images, and
    the statistics that generators are compared with; the rest is bicubic."""
    height, width = size
    while min(image.height / height, image.width / width) >= 2:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def _torchvision_middle(spare: int) -> int:
    """The middle as torchvision's CenterCrop has it: half a pixel goes to the even number."""
    return round(spare / 2)


def _adm_middle(spare: int) -> int:
    """An odd pixel more is cut off below and right."""
    return spare // 2


@dataclass(frozen=True, slots=True)
class Way:
    """A way in which an image comes to cover a size, and where its middle then is, of so many pixels to spare."""

    shrink: Callable[[Image.Image, tuple[int, int]], Image.Image]
    """The picture before it is scaled."""
    scaled: Callable[[Image.Image, tuple[int, int]], tuple[int, int]]
    """Width and height that it is scaled to."""
    by: Image.Resampling
    middle: Callable[[int], int]


RESIZES: Mapping[str, Way] = {
    "torchvision-bicubic": Way(_as_it_is, _shorter_edge, Image.Resampling.BICUBIC, _torchvision_middle),
    "torchvision-bilinear": Way(_as_it_is, _shorter_edge, Image.Resampling.BILINEAR, _torchvision_middle),
    "adm": Way(_halved, _covering, Image.Resampling.BICUBIC, _adm_middle),
}
