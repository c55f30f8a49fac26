"""What a caption of a scene asks, and whether a picture shows it: a classifier for what it was trained to see, and an
exact check of pixels for sizes and places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flexframe.data.source import CaptionReader
from flexframe_standard.sources.scenes.colours import HUES
from flexframe_standard.sources.scenes.layout import draw
from flexframe_standard.sources.scenes.source import Scenes
from flexframe_standard.sources.scenes.truth import LARGE, SMALL, Placed, placed, side_of, size_of
from flexframe_standard.sources.scenes_config import SHAPES, WORDS

OBJECTS = ("shape", "colour", "size", "count", "other side", "other colour", "other size")
ASKED: Mapping[str, Sequence[str]] = {
    "class": ("shape",),
    "short": ("shape", "colour"),
    "objects": OBJECTS,
    "long": (*OBJECTS, "background", "palette", "light"),
}
"""What captions of a form say. Of a scene without a smaller object, the three facts of it are not asked."""
JUDGED = ("shape", "colour", "count", "background", "palette", "light")
SATURATED, BRIGHT, FEW, NEAR = 0.4, 0.5, 20, 2
"""Saturation and value from which a pixel has a hue; of 64 x 64, the fewest pixels of an object, and how far around the
main one they are taken for its edge."""
SPREAD = dict(zip(SHAPES, (1.53, 1.49, 1.27, 1.23, 1.44, 1.32, 1.40, 1.13, 1.54, 1.14), strict=True))
"""Root of a shape's area over its radius, as the pixels of 400 training scenes have it on average (deviations 0.05 to
0.08)."""


def hues(images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in turns, saturation and value of the pixels of pictures b 3 h w, in [0, 1]."""
    red, green, blue = images.numpy().transpose(1, 0, 2, 3)
    value, least = images.amax(1).numpy(), images.amin(1).numpy()
    span = np.maximum(value - least, 1e-6)
    hue = np.where(value == red, (green - blue) / span, np.where(value == green, 2 + (blue - red) / span,
                   4 + (red - green) / span)) / 6 % 1  # fmt: skip
    return hue, span / np.maximum(value, 1e-6), value


def coloured(images: Tensor) -> np.ndarray:
    """Each pixel's colour among the objects' eight, b h w; -1 where it has none."""
    hue, saturation, value = hues(images)
    own, strong, _ = hues(torch.from_numpy(HUES)[:, :, None, None])
    off = np.abs(hue[..., None] - own.reshape(-1))
    off = np.minimum(off, 1 - off) + 0.12 * np.abs(saturation[..., None] - strong.reshape(-1))  # red is not pink
    return np.where((saturation >= SATURATED) & (value >= BRIGHT), off.argmin(-1), -1)


def side(first: np.ndarray, second: np.ndarray) -> str:
    """Side where the pixels of one object lie beside another's."""
    (y, x), (v, u) = (np.argwhere(each).mean(0) for each in (first, second))
    return side_of(u - x, v - y)


def size(pixels: np.ndarray, shape: str) -> str:
    """Word for how large an object of that shape is, by its pixels."""
    radius = float(pixels.sum() / pixels.size) ** 0.5 / SPREAD[shape]
    return "large" if radius >= LARGE else "small" if radius >= SMALL else "tiny"


def placed_right(pixels: np.ndarray, asked: Mapping[str, Any]) -> dict[str, bool]:
    """Answers of what pixels tell, of one picture's pixels by colour: the size of what has the main object's colour;
    whether an object smaller than it is on the side that is asked for, in whatever colour; whether one is in the colour
    that is asked for, and how large that is."""
    main = pixels == asked["colour"]
    told = {"size": main.sum() >= FEW and size(main, SHAPES[asked["shape"]]) == asked["size"]}
    if "other colour" in asked:
        other, around = pixels == asked["other colour"], np.pad(main, NEAR)
        rows, columns = main.shape
        shifts = [(i, j) for i in range(2 * NEAR + 1) for j in range(2 * NEAR + 1)]
        beside = (pixels >= 0) & ~np.any([around[i : i + rows, j : j + columns] for i, j in shifts], 0)
        most = 0.8 * max(main.sum(), 1)
        there = main.sum() >= FEW and FEW <= beside.sum() < most
        told["other side"] = there and side(main, beside) == asked["other side"]
        told["other colour"] = FEW <= other.sum() < most
        told["other size"] = told["other colour"] and size(other, asked["other shape"]) == asked["other size"]
    return {name: bool(right) for name, right in told.items()}


class ScenesReader(CaptionReader):
    """The second judge that ships with the scenes for all that it reads, pixels for the rest."""

    forms = ASKED

    def __init__(self, source: Scenes) -> None:
        self.source, self.judge = source, source.second_classifier()

    def truth(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        layout = draw(self.source.config, [self.source.number(index) for index in indices])
        found = []
        for row in range(len(layout)):
            main, *others = placed(layout, row)
            facts: dict[str, Any] = {name: int(layout.attributes[name][row]) for name in JUDGED}
            facts["size"] = size_of(main)
            found.append(facts | (_beside(main, others[0]) if others else {}))
        return found

    def shown(
        self, images: UInt8[Tensor, "b 3 h w"], asked: Sequence[Mapping[str, Any]]
    ) -> Sequence[Mapping[str, bool]]:
        read = {name: values.tolist() for name, values in self.judge(images).items()}
        pixels = coloured(images.cpu().float() / 255)
        return [
            {name: read[name][i] == facts[name] for name in JUDGED} | placed_right(pixels[i], facts)
            for i, facts in enumerate(asked)
        ]

    def protocol(self) -> Mapping[str, Any]:
        """The judge's, and the thresholds of the pixels."""
        return {**self.judge.protocol(), "pixels": [SATURATED, BRIGHT, FEW, NEAR], "spread": list(SPREAD.values())}


def _beside(main: Placed, other: Placed) -> dict[str, Any]:
    return {
        "other side": side_of(other.x - main.x, other.y - main.y),
        "other colour": WORDS["colour"].index(other.colour),
        "other shape": other.shape,
        "other size": size_of(other),
    }
