"""Pictures for the page: all images of a model at one token count on one sheet, in one file with the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

COLUMNS = 8
EXACT = 96
"""Images of at most so many pixels a side are stored exactly (PNG); larger ones as WebP of this quality."""
QUALITY = 90


@dataclass(frozen=True)
class Sheets:
    """A data URI a sheet: the originals, and each model's reconstructions by token count."""

    uris: Sequence[str]
    fake: Mapping[str, Mapping[int, int]]
    """Numbers of the reconstructions' sheets; the originals' is 0."""
    numbers: Sequence[int]
    """Positions in the suite of the images on a sheet, in the order of the sheet."""
    height: int
    width: int

    @property
    def count(self) -> int:
        """Images on a sheet."""
        return len(self.numbers)

    @property
    def columns(self) -> int:
        """Images beside each other."""
        return min(COLUMNS, max(1, self.count))

    @property
    def rows(self) -> int:
        """Images below each other."""
        return max(1, -(-self.count // COLUMNS))

    @property
    def exact(self) -> bool:
        """True where sheets hold pixels as they are."""
        return exact(self.height, self.width)

    def at(self, place: int) -> str:
        """Custom properties that put an element's background on the image at a place of a sheet."""
        return f"--x:{place % self.columns};--y:{place // self.columns}"


def exact(height: int, width: int) -> bool:
    """Say whether images of this size are kept without loss."""
    return max(height, width) <= EXACT


def make(
    real: UInt8[Tensor, "n 3 h w"],
    fake: Mapping[str, Mapping[int, Tensor]],
    numbers: Sequence[int],
    stops: Sequence[int],
    keep: Sequence[int],
) -> Sheets:
    """Sheets of the images at the places `keep`, at the token counts `stops`."""
    height, width = real.shape[2:]
    if not keep:
        return Sheets([], {}, [], height, width)
    places = torch.tensor(keep)
    uris = [uri(real[places])]
    sheets: dict[str, dict[int, int]] = {}
    for model, rows in fake.items():
        sheets[model] = {}
        for budget in (b for b in stops if b in rows):
            sheets[model][budget] = len(uris)
            uris.append(uri(rows[budget][places]))
    return Sheets(uris, sheets, [numbers[i] for i in keep], height, width)


def uri(images: UInt8[Tensor, "n 3 h w"]) -> str:
    """A sheet as a data URI; places after the last image are black."""
    count, _, height, width = images.shape
    columns, rows = min(COLUMNS, count), -(-count // COLUMNS)
    sheet = torch.zeros(rows * columns, 3, height, width, dtype=torch.uint8)
    sheet[:count] = images
    whole = sheet.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2).reshape(rows * height, -1, 3)
    picture = Image.fromarray(whole.contiguous().numpy())
    if all(torch.equal(images[:, 0], images[:, c]) for c in (1, 2)):
        picture = picture.convert("L")
    buffer = io.BytesIO()
    if exact(height, width):
        picture.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=4)
        kind = "webp"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
