"""Scenes to pixels: the background, then each object's shadow and body, the main object first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from flexframe_standard.sources.scenes.backgrounds import Ground, draw_background
from flexframe_standard.sources.scenes.colours import PALETTES
from flexframe_standard.sources.scenes.layout import LIGHTS, Layout, draw
from flexframe_standard.sources.scenes.objects import Stamp, View, groups, stamps
from flexframe_standard.sources.scenes_config import ScenesConfig

VERSION = 1
"""Of the renderer. To be raised when any pixel of any scene changes; what was trained on scenes names it."""
_CHUNK = 1 << 18
"""Pixels drawn at once: as many as keep the arrays in a core's cache, and the calls few."""
_SHADOW = np.array([0.52, 0.50, 0.40], dtype=np.float32)[:, None, None]
"""How much a full shadow takes of red, green and blue."""


def render(config: ScenesConfig, numbers: Sequence[int], size: tuple[int, int]) -> UInt8[np.ndarray, "n 3 h w"]:
    """The scenes of these numbers at a size (height, width). No picture depends on the others."""
    drawn = [pixels(draw(config, part), size, config.lighting) for part in portions(numbers, size)]
    return np.concatenate([np.empty((0, 3, *size), dtype=np.uint8), *drawn])


def portions(numbers: Sequence[int], size: tuple[int, int]) -> Iterator[Sequence[int]]:
    """The numbers in runs that are drawn at once."""
    step = max(1, _CHUNK // (size[0] * size[1]))
    for start in range(0, len(numbers), step):
        yield numbers[start : start + step]


def pixels(layout: Layout, size: tuple[int, int], lighting: str) -> UInt8[np.ndarray, "n 3 h w"]:
    """The scenes of a layout, in 8 bits."""
    canvas = paint(layout, size, lighting)
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    whole: UInt8[np.ndarray, "n 3 h w"] = np.rint(canvas, out=canvas).astype(np.uint8)
    return whole


def paint(layout: Layout, size: tuple[int, int], lighting: str) -> np.ndarray:
    """n 3 h w: float colours, of which some may lie a little above 1."""
    view = View(*size)
    canvas = np.empty((len(layout), 3, *size), dtype=np.float32)
    x, y = (view.places(axis, np.arange(size[axis])).astype(np.float32) for axis in (1, 0))
    palettes = PALETTES[layout.attributes["palette"]][..., None, None]
    lights = LIGHTS.astype(np.float32)[layout.attributes["light"]][..., None, None]
    numbers = layout.background.astype(np.float32)[..., None, None]
    kinds = layout.attributes["background"]
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        ground = Ground(
            x[None, None], y[None, :, None], np.float32(1 / view.scale), palettes[rows], numbers[rows], lights[rows]
        )
        canvas[rows] = draw_background(int(kind), ground, lighting != "flat")

    made: dict[tuple[int, int], list[Stamp]] = {}
    for group in groups(layout):
        stamped = stamps(group, view, lighting)
        made |= zip(zip(group.rows.tolist(), group.places.tolist(), strict=True), stamped, strict=True)
    for row, place in sorted(made):
        for stamp in made[row, place]:
            _press(canvas[row], stamp)
    return canvas


def _press(picture: np.ndarray, stamp: Stamp) -> None:
    """Lay a stamp over a picture, as far as it lies within."""
    height, width = picture.shape[1:]
    top, left = max(stamp.top, 0), max(stamp.left, 0)
    bottom, right = min(stamp.top + stamp.cover.shape[0], height), min(stamp.left + stamp.cover.shape[1], width)
    if top >= bottom or left >= right:
        return
    own = slice(top - stamp.top, bottom - stamp.top), slice(left - stamp.left, right - stamp.left)
    window, cover = picture[:, top:bottom, left:right], stamp.cover[own]
    if stamp.colour is None:
        window *= 1 - _SHADOW * cover
    else:
        window += cover * (stamp.colour[:, *own] - window)
