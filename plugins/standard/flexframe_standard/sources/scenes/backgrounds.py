"""Backgrounds behind the objects: eight kinds, each from a palette and a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flexframe_standard.sources.scenes.patterns import bands, checks, wave


@dataclass(frozen=True)
class Ground:
    """The numbers that a background is drawn from, for n pictures at once."""

    x: np.ndarray
    """1 1 w: the pixels' places in the unit square; beyond it where the picture is oblong."""
    y: np.ndarray
    """1 h 1."""
    pixel: np.float32
    """A pixel's edge."""
    palette: np.ndarray
    """n 4 3 1 1: far, near, ground, accent."""
    numbers: np.ndarray
    """n 32 1 1: uniform."""
    light: np.ndarray
    """n 2 1 1: where light comes from."""

    def number(self, column: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """n 1 1: a number between the two."""
        return np.float32(low) + np.float32(high - low) * self.numbers[:, column]

    def tone(self, first: int, second: int, share: float) -> np.ndarray:
        """n 3 1 1: a colour between two of the palette."""
        return mix(self.palette[:, first], self.palette[:, second], np.float32(share))

    def cover(self, inside: np.ndarray) -> np.ndarray:
        """The share of a pixel that is inside, by its distance to the edge."""
        return np.clip(0.5 + inside / self.pixel, 0, 1)


FAR, NEAR, FRONT, ACCENT = range(4)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | np.float32) -> np.ndarray:
    """`share` of the way from `a` to `b`."""
    mixed: np.ndarray = a + share * (b - a)
    return mixed


def over(canvas: np.ndarray, cover: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A colour (n 3 1 1, or n 3 h w) laid over the canvas where `cover` (n h w) says."""
    return mix(canvas, colour, cover[:, None])


def smooth(x: np.ndarray) -> np.ndarray:
    """0 to 1, without a kink at either end."""
    x = np.clip(x, 0, 1)
    eased: np.ndarray = x * x * (3 - 2 * x)
    return eased


def plain(g: Ground) -> np.ndarray:
    """One even slope from the far colour to the near one."""
    return mix(g.palette[:, FAR], g.palette[:, NEAR], smooth(g.y)[:, None])


def horizon(g: Ground) -> np.ndarray:
    """A wall, and a floor that is lighter in front."""
    below = g.y - g.number(0, 0.58, 0.74)
    wall = plain(g) * (1 - 0.16 * np.clip(1 + 5 * below, 0, 1))[:, None]
    floor = mix(g.palette[:, FRONT], g.tone(FRONT, NEAR, 0.5), smooth(2.2 * below)[:, None])
    return over(wall, g.cover(below), floor)


def clouds(g: Ground) -> np.ndarray:
    """Drifting haze: a lattice of 5 x 5 numbers, smoothly joined."""
    lattice = g.numbers[:, :25].reshape(-1, 5, 5)
    x, y = (np.clip(4 * v, 0, 3.999) for v in (g.x[0, 0], g.y[0, :, 0]))
    column, row = x.astype(np.int64), y.astype(np.int64)
    rows = mix(lattice[:, :, column], lattice[:, :, column + 1], smooth(x - column))
    haze = mix(rows[:, row], rows[:, row + 1], smooth(y - row)[:, None])
    return over(plain(g), 0.85 * smooth(2.2 * haze - 0.7), g.palette[:, ACCENT])


def hills(g: Ground) -> np.ndarray:
    """Three ridges before a sky with a low sun on the side of the light."""
    dx, dy = g.x - 0.5 - 0.36 * g.light[:, 0], g.y - g.number(0, 0.2, 0.3)
    sun = smooth((0.12 - np.sqrt(dx * dx + dy * dy)) / 0.1 + 0.5)
    canvas = over(plain(g), 0.6 * sun, g.palette[:, ACCENT])
    for i, share in enumerate((0.35, 0.7, 1.0)):
        rise = g.number(3 * i + 1, 0.04, 0.09) * wave(g.number(3 * i + 2, 0.5, 1.1) * g.x + g.number(3 * i + 3))
        ridge = g.y - (0.52 + 0.15 * i) - rise
        canvas = over(canvas, g.cover(ridge), g.tone(NEAR, FRONT, share) * (1 + 0.2 * smooth(2 * ridge))[:, None])
    return canvas


def bokeh(g: Ground) -> np.ndarray:
    """Lights out of focus."""
    canvas = plain(g)
    for i in range(6):
        dx, dy = g.x - g.number(4 * i), g.y - g.number(4 * i + 1)
        disc = smooth((g.number(4 * i + 2, 0.07, 0.17) - np.sqrt(dx * dx + dy * dy)) / 0.03 + 0.5)
        canvas = over(canvas, g.number(4 * i + 3, 0.25, 0.6) * disc, g.palette[:, ACCENT if i % 3 else FRONT])
    return canvas


def stripes(g: Ground) -> np.ndarray:
    """Slanted stripes of two colours."""
    slope = g.number(0, -0.6, 0.6)  # tangent of half the angle from upright stripes
    unit = 1 / (1 + slope * slope)
    frequency = g.number(1, 3.2, 5.0)
    phase = frequency * unit * ((1 - slope * slope) * (g.x - 0.5) + 2 * slope * (g.y - 0.5)) + g.number(2)
    return over(plain(g), 0.5 * bands(phase, frequency * g.pixel), g.palette[:, ACCENT])


def ripples(g: Ground) -> np.ndarray:
    """Rings around a point near the edge."""
    dx, dy = g.x - g.number(0, -0.1, 1.1), g.y - g.number(1, 0.75, 1.1)
    frequency = g.number(2, 3.2, 4.6)
    phase = frequency * np.sqrt(dx * dx + dy * dy)
    return over(plain(g), 0.5 * bands(phase, frequency * g.pixel), g.palette[:, ACCENT])


def checker(g: Ground) -> np.ndarray:
    """A board that lies on the ground and runs to a horizon."""
    edge = g.number(0, 0.5, 0.62)
    below = g.y - edge
    depth = 1 / np.clip(below + 0.16, 0.12, None)
    x = g.number(1, 1.1, 1.5) * (g.x - g.number(2, 0.3, 0.7)) * depth
    across, down = 1.5 * depth * g.pixel, 0.45 * depth * depth * g.pixel
    board = checks(x, 0.45 * depth, across, down)
    near = smooth(0.35 + 3 * below)
    floor = over(g.tone(FRONT, NEAR, 0.25), 0.75 * board * near, g.palette[:, ACCENT])
    return over(plain(g) * (1 - 0.14 * np.clip(1 + 5 * below, 0, 1))[:, None], g.cover(below), floor)


BACKGROUNDS: tuple[Callable[[Ground], np.ndarray], ...] = (
    plain, horizon, clouds, hills, bokeh, stripes, ripples, checker,
)  # fmt: skip
"""In the order of `scenes_config.BACKGROUNDS`. Each gives n 3 h w, or what broadcasts to it."""


def draw_background(kind: int, ground: Ground, lit: bool) -> np.ndarray:
    """n 3 h w: the background, brighter and warmer towards the light."""
    canvas = BACKGROUNDS[kind](ground)
    if lit:
        dx, dy = ground.x - 0.5 - 0.62 * ground.light[:, 0], ground.y - 0.5 - 0.62 * ground.light[:, 1]
        glow = 1 / (1 + 1.6 * (dx * dx + dy * dy))
        canvas = canvas * (_SHADE + _GLOW * glow[:, None])
    return canvas


_SHADE = np.array([0.66, 0.69, 0.75], dtype=np.float32)[:, None, None]
_GLOW = np.array([0.54, 0.48, 0.37], dtype=np.float32)[:, None, None]
