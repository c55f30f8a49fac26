"""Pictures for people: strips, grids and sheets of images."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flexframe_registry import ConfigError

PSNR_CAP = 100.0
"""Of equal images, in dB, as in `flexframe bench`."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""Beginning of a PNG."""
TILE, MARGIN, LINE = 128, 12, 18

FONT = 13

INK, FAINT, PAPER = (20, 20, 20), (110, 110, 110), (255, 255, 255)


@dataclass(frozen=True)
class Strip:
    """One image and what became of it, all 8-bit: reconstructions and PSNR in dB by number of tokens."""

    id: str
    original: UInt8[Tensor, "3 h w"]
    reconstructions: Mapping[int, UInt8[Tensor, "3 h w"]]
    psnr: Mapping[int, float]


def whole_png(content: bytes) -> bool:
    """Tell whether this is a PNG to its end, each of whose parts has the checksum that stands behind it."""
    at = len(SIGNATURE)
    while content.startswith(SIGNATURE) and at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4])
        if int.from_bytes(content[end - 4 : end]) != zlib.crc32(content[at + 4 : end - 4]):
            return False
        if content[at + 4 : at + 8] == b"IEND":
            return end == len(content)
        at = end
    return False


def psnr_of(real: UInt8[Tensor, "3 h w"], fake: UInt8[Tensor, "3 h w"]) -> float:
    """10 log10(255² / MSE) over pixels and channels, at most `PSNR_CAP`."""
    error = (real.double() - fake.double()).square().mean()
    return min(float(10 * torch.log10(255.0**2 / error)), PSNR_CAP)


def grid(strips: Sequence[Strip]) -> Image.Image:
    """A row an image: the original, then its reconstructions, each with its tokens and PSNR below. Small images are
    enlarged by a whole number, pixel by pixel."""
    height, width = strips[0].original.shape[1:]
    scale = max(1, -(-TILE // max(height, width)))
    cell = (width * scale, height * scale)
    lengths = list(strips[0].reconstructions)
    step = (cell[0] + MARGIN, cell[1] + 2 * LINE + MARGIN)
    sheet = Image.new("RGB", (MARGIN + step[0] * (1 + len(lengths)), MARGIN + step[1] * len(strips)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for y, strip in enumerate(strips):
        tiles = [(strip.original, _short(strip.id, draw, font, cell[0]), "original")]
        for length in lengths:
            tokens = f"{length} token{'s' if length > 1 else ''}"
            tiles.append((strip.reconstructions[length], tokens, f"{strip.psnr[length]:.2f} dB"))
        for x, (image, above, below) in enumerate(tiles):
            left, top = MARGIN + x * step[0], MARGIN + y * step[1]
            tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(cell, Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top))
            draw.text((left, top + cell[1] + 2), above, INK, font)
            draw.text((left, top + cell[1] + 2 + LINE), below, FAINT, font)
    return sheet


def _short(text: str, draw: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    """The end of a text that is too wide, which is what tells files apart."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"…{text}", font) > width:
        text = text[1:]
    return f"…{text}"


Picture = UInt8[Tensor, "3 h w"]


def sheet(rows: Sequence[Sequence[tuple[Picture, str]]]) -> Image.Image:
    """Pictures in rows, each with a word below, or a text in lines. Small ones are enlarged by a whole number, pixel by
    pixel."""
    height, width = rows[0][0][0].shape[1:]
    scale = max(1, -(-TILE // max(height, width)))
    cell = (width * scale, height * scale)
    font = ImageFont.load_default(FONT)
    told = [[_lines(word, font, cell[0]) for _, word in row] for row in rows]
    step = (cell[0] + MARGIN, cell[1] + LINE * max(1, *(len(lines) for row in told for lines in row)) + MARGIN)
    page = Image.new("RGB", (MARGIN + step[0] * len(rows[0]), MARGIN + step[1] * len(rows)), PAPER)
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (image, _) in enumerate(row):
            left, top = MARGIN + x * step[0], MARGIN + y * step[1]
            tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(cell, Image.Resampling.NEAREST)
            page.paste(tile, (left, top))
            for line, words in enumerate(told[y][x]):
                draw.text((left, top + cell[1] + 2 + line * LINE), words, INK, font)
    return page


def _lines(text: str, font: Any, width: int) -> list[str]:
    """A text in lines of this width, in pixels; a word that is wider stands alone and whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def to_uint8(images: Tensor) -> UInt8[Tensor, "b 3 h w"]:
    """Images in [0, 1] as 8-bit values on the CPU, rounded half to even.

    Raises:
        ConfigError: a value is not finite, which 8 bits would turn into black without a word.
    """
    values = images.float()
    if not bool(values.isfinite().all()):
        text = (
            "hold values that are not finite, so that they would be black; a setting of sampling is out of all bounds"
        )
        raise ConfigError.at("pictures", f"{text}, or the precision is too low for this model")
    return (values * 255).round().to(torch.uint8).cpu()
