"""Ten shapes as signed distances: in radii of the object, negative inside, x to the right and y downwards.

Sides meet in smooth maxima, so that corners are round and the inside bulges without creases. Like everything that makes
a pixel here, they use sums, products, quotients, square roots and comparisons alone: IEEE 754 fixes those to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

Field = Float32[np.ndarray, "n p q"]


@dataclass(frozen=True)
class Shape:
    """A signed distance, the depth over which its edge rises, and the radius of a circle that it fits into."""

    distance: Callable[[Field, Field], Field]
    bevel: float
    reach: float
    _cast: Callable[[Field, Field], Field] | None = None

    def cast(self, x: Field, y: Field) -> Field:
        """The distance that a soft shadow follows. Of at least that to the circle: where the planes of two sides meet
        far out, `distance` is less than the way to the corner, and would draw the shadow into a spike."""
        followed = (self._cast or self.distance)(x, y)
        distance: Field = np.maximum(followed, np.sqrt(x * x + y * y) - np.float32(self.reach))
        return distance


def smooth_abs(x: Field, width: float) -> Field:
    """|x|, rounded over about `width` around 0; never below |x|."""
    distance: Field = np.sqrt(x * x + width * width)
    return distance


def smooth_max(a: Field, b: Field, width: float) -> Field:
    """max(a, b), rounded where they differ by less than `width`; never below the maximum."""
    gap = np.clip(width - np.abs(a - b), 0, None)
    distance: Field = np.maximum(a, b) + gap * gap * (0.25 / width)
    return distance


def circle(x: Field, y: Field) -> Field:
    """Signed distance to a circle."""
    distance: Field = np.sqrt(x * x + y * y) - 0.95
    return distance


def square(x: Field, y: Field) -> Field:
    """Signed distance to a square."""
    return smooth_max(np.abs(x), np.abs(y), 0.34) - 0.82


def triangle(x: Field, y: Field) -> Field:
    """Signed distance to a triangle."""
    return smooth_max(0.8660254 * smooth_abs(x, 0.12) - 0.5 * y, y, 0.34) - 0.62


def star(x: Field, y: Field) -> Field:
    """The plane folded onto a tenth of it, where the edge is one straight line from a tip to a notch."""
    x, y = np.abs(x), -y
    for c in (0.809017, -0.809017):  # mirrors at 36 degrees to either side of upwards
        over = 2 * np.clip(c * x - 0.5877853 * y, 0, None)
        x, y = x - c * over, y + 0.5877853 * over
    return 0.9152 * smooth_abs(x, 0.1) + 0.403 * y - 0.4837


def ring(x: Field, y: Field) -> Field:
    """Signed distance to a ring."""
    distance: Field = np.abs(np.sqrt(x * x + y * y) - 0.68) - 0.29
    return distance


def cross(x: Field, y: Field) -> Field:
    """Signed distance to a cross."""
    x, y = np.abs(x), np.abs(y)
    upright, across = smooth_max(x - 0.33, y - 0.95, 0.3), smooth_max(x - 0.95, y - 0.33, 0.3)
    return -smooth_max(-upright, -across, 0.12)


def heart(x: Field, y: Field) -> Field:
    """Two thick strokes that part from the lower tip and end in half circles."""
    x, y = 0.70710678 * smooth_abs(x, 0.05), 0.70710678 * (y - 0.9)
    along, across = np.clip(x - y - 1.14, 0, None), x + y + 0.57
    return np.sqrt(along * along + across * across) - 0.57


def crescent(x: Field, y: Field) -> Field:
    """Signed distance to a crescent."""
    beside = x - 0.45
    bite = np.sqrt(beside * beside + y * y)
    return smooth_max(np.sqrt(x * x + y * y) - 0.98, 0.74 - bite, 0.2)


def _crescent_cast(x: Field, y: Field) -> Field:
    """Distance to a crescent as if bitten by a bar that runs on to the right, and steeper there, so that no shadow
    lies around the bite."""
    beside = np.clip(x - 0.45, None, 0)
    bite = np.sqrt(beside * beside + y * y)
    distance: Field = np.maximum(np.sqrt(x * x + y * y) - 0.98, 1.6 * (0.74 - bite))
    return distance


def hexagon(x: Field, y: Field) -> Field:
    """Signed distance to a hexagon."""
    x, y = np.abs(x), smooth_abs(y, 0.1)
    return smooth_max(0.8660254 * x + 0.5 * y, y, 0.14) - 0.9


def capsule(x: Field, y: Field) -> Field:
    """Signed distance to a capsule."""
    x = np.clip(np.abs(x) - 0.56, 0, None)
    distance: Field = np.sqrt(x * x + y * y) - 0.42
    return distance


SHAPES = (
    Shape(circle, 0.8, 0.96),
    Shape(square, 0.55, 1.1),
    Shape(triangle, 0.46, 1.12),
    Shape(star, 0.38, 1.0),
    Shape(ring, 0.29, 0.98),
    Shape(cross, 0.33, 1.02),
    Shape(heart, 0.55, 1.1),
    Shape(crescent, 0.33, 1.0, _crescent_cast),
    Shape(hexagon, 0.6, 1.0),
    Shape(capsule, 0.42, 0.99),
)
"""In the order of the names in `flexframe_standard.sources.scenes_config.SHAPES`."""
