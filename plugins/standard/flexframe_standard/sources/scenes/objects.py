"""Objects as stamps: for a group of like size, small windows of colour, cover and shadow, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flexframe_standard.sources.scenes.backgrounds import smooth
from flexframe_standard.sources.scenes.colours import HUES
from flexframe_standard.sources.scenes.layout import LIGHTS, Layout
from flexframe_standard.sources.scenes.patterns import TEXTURES
from flexframe_standard.sources.scenes.shapes import SHAPES, Shape
from flexframe_standard.sources.scenes_config import MOST

LIFT, BLUR = 0.17, 0.24
"""How far a shadow falls from its object, and half the width of its edge, in radii."""
MARGIN = 1.25
"""Pixels beyond its reach in which an object may still show: the distance to a star rises by 0.4 only off its tips."""
_ACROSS, _UP = 0.75, 0.66
"""The light's direction: along the picture, and out of it."""
_NUDGE = 0.07
"""The step, in radii, over which a surface's slope towards the light is taken."""
_STEEPNESS = np.array([-1 / shape.bevel for shape in SHAPES], dtype=np.float32)
_CREAM = np.array([1.0, 0.98, 0.93], dtype=np.float32)
_DARK = np.array([0.34, 0.30, 0.42], dtype=np.float32)
"""What is left of a colour where no light falls on it."""


@dataclass(frozen=True)
class Stamp:
    """A window into a picture, from its first row and column on."""

    top: int
    left: int
    cover: np.ndarray
    """p q."""
    colour: np.ndarray | None
    """3 p q; None for a shadow."""


@dataclass(frozen=True)
class View:
    """The picture's size in pixels, and its pixels' places in the unit square."""

    height: int
    width: int

    @property
    def scale(self) -> int:
        """Pixels to the unit."""
        return min(self.height, self.width)

    def places(self, axis: int, index: np.ndarray) -> np.ndarray:
        """Coordinates of the middles of these rows (axis 0) or columns (1)."""
        return (index + (0.5 - (self.height, self.width)[axis] / 2)) / self.scale + 0.5


@dataclass(frozen=True)
class Group:
    """Objects of like size, by their row and place in a layout."""

    layout: Layout
    rows: np.ndarray
    places: np.ndarray

    def of(self, values: np.ndarray) -> np.ndarray:
        """The objects' own of values that a layout has for all."""
        own: np.ndarray = values[self.rows, self.places]
        return own

    @cached_property
    def by_shape(self) -> Sequence[tuple[Shape, np.ndarray]]:
        """Each shape that there is, and which objects have it."""
        shapes = self.of(self.layout.shape)
        return [(SHAPES[k], np.flatnonzero(shapes == k)) for k in np.unique(shapes)]

    def reach(self) -> np.ndarray:
        """n: the radius that each object stays within, in its own radii."""
        reaches: np.ndarray = np.array([shape.reach for shape in SHAPES])[self.of(self.layout.shape)]
        return reaches

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """n p q: each object's signed distance at its own coordinates."""
        return self._each(lambda shape: shape.distance, x, y)

    def cast(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """n p q: the distance that each object's shadow follows."""
        return self._each(lambda shape: shape.cast, x, y)

    def _each(self, of: Callable[[Shape], Callable[..., np.ndarray]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if len(self.by_shape) == 1:
            return of(self.by_shape[0][0])(x, y)
        values = np.empty_like(x)
        for shape, chosen in self.by_shape:
            values[chosen] = of(shape)(x[chosen], y[chosen])
        return values


def groups(layout: Layout) -> Iterator[Group]:
    """The objects in classes of like size, so that one window fits all: the main ones, the next three, the rest."""
    rows, places = np.nonzero(np.arange(MOST) < layout.count[:, None])
    classes = np.searchsorted([1, 4], places, side="right")
    for size_class in np.unique(classes):
        yield Group(layout, rows[classes == size_class], places[classes == size_class])


def _windows(
    view: View, x: np.ndarray, y: np.ndarray, half: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First rows and columns of windows around points, and the pixels' offsets from them: n p 1 and n 1 p.

    All windows are as large as the largest needs; beyond `half` there is nothing to see in the others.
    """
    number = int(np.ceil(2 * half.max() * view.scale)) + 2
    axes = []
    for axis, centre in ((0, y), (1, x)):
        middle = (view.height, view.width)[axis] / 2
        first = np.floor((centre - half - 0.5) * view.scale + middle - 0.5).astype(np.int64)
        offsets = view.places(axis, first[:, None] + np.arange(number)) - centre[:, None]
        axes.append((first, offsets))
    (top, down), (left, across) = axes
    return top, left, down[:, :, None], across[:, None, :]


def stamps(group: Group, view: View, lighting: str) -> list[list[Stamp]]:
    """Stamps that each of the group's objects puts into its picture, in order: its shadow if it has one, itself."""
    layers = [_shadows(group, view)] if lighting == "shadows" else []
    return [list(layered) for layered in zip(*layers, _bodies(group, view, lighting != "flat"), strict=True)]


def _turned(group: Group, down: np.ndarray, across: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets from the objects' centres in their own coordinates, in radii, as the outer sums' terms."""
    turn = 0.9 * group.of(group.layout.turn)[:, None, None] - 0.45
    unit = 1 / ((1 + turn * turn) * radius)
    cos, sin = (1 - turn * turn) * unit, 2 * turn * unit
    x = (cos * across).astype(np.float32) + (sin * down).astype(np.float32)
    y = (cos * down).astype(np.float32) - (sin * across).astype(np.float32)
    return x, y


def _bodies(group: Group, view: View, lit: bool) -> list[Stamp]:
    layout, radius = group.layout, group.of(group.layout.radius)
    half = group.reach() * radius + MARGIN / view.scale
    top, left, down, across = _windows(view, group.of(layout.x), group.of(layout.y), half)
    radius = radius[:, None, None]
    x, y = _turned(group, down, across, radius)
    distance = group.distance(x, y)
    pixel = (1 / (radius * view.scale)).astype(np.float32)
    cover = np.clip(0.5 - distance / pixel, 0, 1)

    tint = group.of(layout.tint)[:, None]
    base = (HUES[group.of(layout.colour)] * (0.94 + 0.1 * tint)).astype(np.float32)
    if lit:
        towards = LIGHTS[layout.attributes["light"][group.rows]][:, :, None, None]
        ex, ey = _turned(group, towards[:, 1], towards[:, 0], np.ones_like(radius))
        nudged = group.distance(x + _NUDGE * ex, y + _NUDGE * ey)
        light, gloss = _lighting(
            distance * _STEEPNESS[group.of(layout.shape), None, None], (nudged - distance) * (1 / _NUDGE)
        )
    else:
        light, gloss = np.ones_like(distance), None
    dark = (base * _DARK)[:, :, None, None]
    colour = dark + (base[:, :, None, None] - dark) * light[:, None]
    if gloss is not None:
        colour += gloss[:, None]
    _texture(group, colour, base, light, x, y, pixel)
    return [Stamp(*parts) for parts in zip(top.tolist(), left.tolist(), cover, colour, strict=True)]


def _texture(
    group: Group,
    colour: np.ndarray,
    base: np.ndarray,
    light: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    pixel: np.ndarray,
) -> None:
    """Lay each object's pattern onto its colour, in a paler tone under the same light."""
    texture, phase = group.of(group.layout.texture), group.of(group.layout.phase).astype(np.float32)
    for kind, pattern in enumerate(TEXTURES):
        chosen = np.flatnonzero(texture == kind)
        if pattern is not None and len(chosen):
            begin = phase[chosen, None, None]
            drawn = pattern(x[chosen] + begin, y[chosen] + begin, pixel[chosen])[:, None]
            lit = _DARK[:, None, None] + (1 - _DARK)[:, None, None] * light[chosen, None]
            colour[chosen] += (0.65 * (_CREAM - base[chosen]))[:, :, None, None] * drawn * lit


def _lighting(depth: np.ndarray, slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The light, 1 on a level, and the soft gloss on a surface that rises from its edge in a quarter circle."""
    flat = np.clip(depth, 0, 1)
    tilt = 1 - flat
    up = np.sqrt(flat * (1 + tilt))
    tilt = tilt * slope
    light = np.clip(_ACROSS * tilt + _UP * up, -0.6, None)
    gloss = np.clip(0.41 * tilt + 0.91 * up - 0.93, 0, None)
    return (light + 0.6) * (1 / (_UP + 0.6)), (gloss * gloss) * 60


def _shadows(group: Group, view: View) -> list[Stamp]:
    layout, radius = group.layout, group.of(group.layout.radius)
    light = LIGHTS[layout.attributes["light"][group.rows]]
    x, y = (group.of(v) - LIFT * radius * light[:, i] for i, v in enumerate((layout.x, layout.y)))
    top, left, down, across = _windows(view, x, y, (group.reach() + BLUR) * radius + 1 / view.scale)
    dx, dy = _turned(group, down, across, radius[:, None, None])
    cover = smooth(0.5 - group.cast(dx, dy) * (0.5 / BLUR))
    return [Stamp(*parts, None) for parts in zip(top.tolist(), left.tolist(), cover, strict=True)]
