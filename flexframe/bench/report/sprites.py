"""Images for the page: each row of reconstructions as one picture, small enough that the page stays a single file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

SIDES = (512, 384, 256, 192, 128, 96, 64, 32, 16)
"""Largest tile sides to fall back to, in pixels, where the pictures would be too heavy."""


@dataclass(frozen=True)
class Sprites:
    """One PNG data URI a row: the originals, and each model's reconstructions by token count."""

    uris: Sequence[str]
    real: int
    """Number of the originals' sprite."""
    fake: Mapping[str, Mapping[int, int]]
    """Numbers of the reconstructions' sprites."""
    count: int
    height: int
    width: int
    """Tile size in the sprites; smaller than the images' where they had to be shrunk."""


def make(
    real: UInt8[Tensor, "n 3 h w"], fake: Mapping[str, Mapping[int, Tensor]], stops: Sequence[int], limit: int
) -> Sprites:
    """Sprites of at most `limit` bytes together, as data URIs; the tiles are shrunk as far as that needs."""
    height, width = real.shape[2:]
    if not len(real):
        return Sprites([], 0, {}, 0, height, width)
    for side in (max(height, width), *[s for s in SIDES if s < max(height, width)]):
        scale = side / max(height, width)
        tile = (max(1, round(height * scale)), max(1, round(width * scale)))
        uris = [_uri(real, tile)]
        numbers: dict[str, dict[int, int]] = {}
        for model, rows in fake.items():
            numbers[model] = {}
            for budget in (b for b in stops if b in rows):
                numbers[model][budget] = len(uris)
                uris.append(_uri(rows[budget], tile))
            if sum(map(len, uris)) > limit:
                break
        if sum(map(len, uris)) <= limit:
            return Sprites(uris, 0, numbers, len(real), *tile)
    raise ValueError(
        f"{len(real)} images and their reconstructions do not fit in {limit} bytes; lower the suite's `show`"
    )


def _uri(images: UInt8[Tensor, "n 3 h w"], tile: tuple[int, int]) -> str:
    if tuple(images.shape[2:]) != tile:
        images = torch.nn.functional.interpolate(images.float(), tile, mode="area").round().to(torch.uint8)
    strip = images.permute(2, 0, 3, 1).flatten(1, 2).contiguous()  # h, n*w, 3
    buffer = io.BytesIO()
    picture = Image.fromarray(strip.numpy())
    if all(torch.equal(images[:, 0], images[:, c]) for c in (1, 2)):
        picture = picture.convert("L")
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
