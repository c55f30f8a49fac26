"""From an image file to the pixels that a model sees: one way, for training, measuring and use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from flexframe_registry.files import MAX_PIXELS

UNREAD = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by their first bytes, and of which it decodes none, or EPS by running Ghostscript."""
USUAL = ".png .jpg .jpeg .webp .bmp .tif .gif"
"""A few of `suffixes`, for errors."""
MOST_SCALED = 1 << 24
"""Pixels up to which a picture is enlarged in whole before it is cropped, as torchvision does. Of a larger one, as a
strip of 40,000 x 4 pixels becomes, the crop alone is computed."""
COLOUR = (
    "turned as its EXIF orientation says; alpha over white; 16-bit grey divided by 257, the upper byte of 16-bit "
    "colour; CMYK by Pillow's rule; profiles not applied; the first frame"
)


class BrokenImage(ValueError):
    """An image that cannot be read."""


@cache
def formats() -> tuple[str, ...]:
    """Names of the formats that Pillow decodes on this machine."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - UNREAD))


@cache
def suffixes() -> frozenset[str]:
    """Suffixes of image files, in small letters with their dot: all that Pillow knows of the formats it decodes."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats())


def read_image(file: Path | BytesIO, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first frame of an image file as 8-bit RGB, by the rules of `COLOUR`.

    Raises:
        BrokenImage: with `name` and the reason; more than `max_pixels` among them, told before any is decoded.
    """
    try:
        with Image.open(file, formats=formats()) as opened:
            if opened.width * opened.height > max_pixels:
                size = f"{opened.width} x {opened.height}, {opened.width * opened.height} pixels"
                raise ValueError(f"it has {size}; at most {max_pixels} are read (max_pixels)")
            return to_rgb(opened)
    except Exception as error:  # Pillow's decoders raise whatever they come upon in a broken file
        reason = str(error) or type(error).__name__
        raise BrokenImage(f"cannot read image {name}: {reason}; repair or remove the file") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB.

    Raises:
        ValueError: pixels of no stated range.
    """
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    image = ImageOps.exif_transpose(image)
    if sixteen:
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}) of no stated range; save it with 8 or 16")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """An image's RGB pixels, 8 bits a value."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


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
