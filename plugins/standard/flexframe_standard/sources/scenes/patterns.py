"""Patterns averaged over a pixel's footprint, so that a picture shrunk is the picture drawn small.

Coordinates and footprints are in periods of the pattern. Where a footprint nears a period, a pattern fades to its mean.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def wave(x: np.ndarray) -> np.ndarray:
    """A smooth wave between -1 and 1 with period 1, of two parabolas."""
    x = x - np.floor(x) - 0.5
    value: np.ndarray = 8 * x - 16 * x * np.abs(x)
    return value


def bands(x: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """1 and 0 by halves."""
    inside = 0.25 - np.abs(x - np.floor(x) - 0.5)
    value: np.ndarray = 0.5 + (np.clip(0.5 + inside / footprint, 0, 1) - 0.5) * _fade(footprint)
    return value


def checks(x: np.ndarray, y: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """1 and 0 by fields of a board, with a footprint for each axis."""
    x, y = bands(x, across), bands(y, down)
    value: np.ndarray = 1 - x - y + 2 * x * y
    return value


def dots(x: np.ndarray, y: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """1 in a disc in the middle of each cell, which covers a quarter of it."""
    x, y = x - np.floor(x) - 0.5, y - np.floor(y) - 0.5
    disc = np.clip(0.5 + (0.282 - np.sqrt(x * x + y * y)) / footprint, 0, 1)
    value: np.ndarray = 0.25 + (disc - 0.25) * _fade(footprint)
    return value


def _fade(footprint: np.ndarray) -> np.ndarray:
    value: np.ndarray = np.clip(2 - 2 * footprint, 0, 1)
    return value


TEXTURES: tuple[Pattern | None, ...] = (
    None,
    lambda x, y, footprint: bands(2 * y, 2 * footprint),
    lambda x, y, footprint: dots(2.4 * x, 2.4 * y, 2.4 * footprint),
    lambda x, y, footprint: checks(1.5 * x, 1.5 * y, 1.5 * footprint, 1.5 * footprint),
    lambda x, y, footprint: bands(2.6 * y + 0.3 * wave(1.3 * x), 2.6 * footprint),
)
"""Textures of surfaces in an object's own coordinates, in the order of `scenes_config.TEXTURES`."""
