"""The colours of scenes: hues of objects on a wheel, and palettes of backgrounds that all of them stand before."""

from __future__ import annotations

import numpy as np


def _rgb(*codes: str) -> np.ndarray:
    return np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes], dtype=np.float32)


HUES = _rgb("d9453f", "ee8a3a", "f6c644", "6fae5a", "2f9d97", "3f78c9", "8459b8", "ec8299")
"""Objects' colours, around the wheel."""
PALETTES = np.stack(
    [  # far, near, ground, accent
        _rgb("f3c3a2", "f9e0c9", "d79a87", "fff0dc"),  # dawn
        _rgb("9cc8e6", "e4f1f5", "a9cf9f", "ffffff"),  # day
        _rgb("8f86b8", "f0b9a0", "6f6798", "f8d6b3"),  # dusk
        _rgb("1d2747", "3d4f7d", "16203a", "7f93c4"),  # night
        _rgb("e6d3b3", "f5ead6", "c9ae86", "fffaf0"),  # sand
        _rgb("a9d3c4", "e2f1e6", "79b3a4", "fbfff5"),  # mint
        _rgb("7d8fa0", "b9c5cd", "5c6d7e", "dfe6ea"),  # slate
        _rgb("d9a5b4", "f5dde0", "b67f97", "fff1f1"),  # rose
    ]
)
"""Backgrounds' colours: behind at the top, behind at the bottom, in front, and of patterns."""
COMPANIONS = np.array([[1, -1], [4, 3], [3, -3], [4, 1]])
"""Steps on the wheel from the main object's hue to the two that smaller objects take: neighbours, opposites, thirds,
opposite and neighbour."""
