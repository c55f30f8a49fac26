"""Objects of a scene and their places: all draws, from the counter-based generator, with the geometry that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flexframe.rng import Rng
from flexframe_standard.sources.scenes.colours import COMPANIONS
from flexframe_standard.sources.scenes_config import BACKGROUNDS, MOST, TEXTURES, WORDS, ScenesConfig

TRIES = 8
_HEAD = ("palette", "background", "light", "shape", "colour", "count", "texture", "companions", "x", "y")
_OBJECT = ("shape", "colour", "texture", "radius", "turn", "phase", "tint")
_BACKGROUND = 32
COLUMNS = len(_HEAD) + _BACKGROUND + MOST * (len(_OBJECT) + 2 * TRIES)
LIGHTS = np.array([[-1, 0], [-0.70710678, -0.70710678], [0, -1], [0.70710678, -0.70710678], [1, 0]])
"""Where light comes from, by the attribute `light`; y downwards."""
RADII = np.array([[0.23, 0.28], [0.105, 0.14], [0.09, 0.12], [0.08, 0.11], [0.07, 0.09], *[[0.05, 0.07]] * 3])
"""The smallest and largest radius of an object by its place in the scene, in shorter edges of the picture."""
GAP = 0.035
"""The clearance with which a place is taken without looking further."""


@dataclass(frozen=True)
class Layout:
    """Scenes as arrays: n scenes, of `MOST` places for objects of which the first `count` are taken.

    Positions are in the unit square in the middle of the picture, whose side is the picture's shorter edge.
    """

    attributes: dict[str, np.ndarray]
    """By name, n integers; see `flexframe_standard.sources.scenes_config.WORDS`."""
    shape: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    turn: np.ndarray
    """Tangent of half the angle that the object is turned by, clockwise."""
    phase: np.ndarray
    tint: np.ndarray
    """Each object's own lightness, in [0, 1)."""
    background: np.ndarray
    """n uniform numbers in each of 32 columns, for the background's own use."""

    @property
    def count(self) -> np.ndarray:
        return self.attributes["count"] + 1

    def __len__(self) -> int:
        return len(self.x)


def draw(config: ScenesConfig, numbers: Sequence[int]) -> Layout:
    """The scenes of these numbers. A row depends on the seed, its number and the settings, and on nothing else."""
    uniform = Rng(config.seed, torch.tensor(numbers)).uniform("scenes", (COLUMNS,)).double().numpy()
    head = dict(zip(_HEAD, uniform.T, strict=False))
    rest = uniform[:, len(_HEAD) :]
    parts = rest[:, _BACKGROUND:].reshape(len(rest), MOST, -1)
    own = {name: parts[..., i] for i, name in enumerate(_OBJECT)}
    attributes = _attributes(config, head)

    shape, colour = _among(own["shape"], len(WORDS["shape"])), _among(own["colour"], 2)
    texture = _coded(own["texture"], config.textures, TEXTURES)
    steps = COMPANIONS[_among(head["companions"], len(COMPANIONS))]
    colour = (attributes["colour"][:, None] + np.take_along_axis(steps, colour, 1)) % len(WORDS["colour"])
    shape[:, 0], colour[:, 0], texture[:, 0] = attributes["shape"], attributes["colour"], attributes["texture"]
    low, high = RADII.T
    radius = low + (high - low) * own["radius"]
    x, y = _places(head, radius, parts[..., len(_OBJECT) :], int(attributes["count"].max()) + 1)
    return Layout(
        attributes, shape, colour, texture, x, y, radius, own["turn"], own["phase"], own["tint"], rest[:, :_BACKGROUND]
    )


def _attributes(config: ScenesConfig, head: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    low, high = config.objects
    attributes = {name: _among(head[name], len(words)) for name, words in WORDS.items()}
    attributes["background"] = _coded(head["background"], config.backgrounds, BACKGROUNDS)
    attributes["count"] = low - 1 + _among(head["count"], high - low + 1)
    attributes["texture"] = _coded(head["texture"], config.textures, TEXTURES)
    return attributes


def _among(uniform: np.ndarray, number: int) -> np.ndarray:
    return (uniform * number).astype(np.int64)


def _coded(uniform: np.ndarray, chosen: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Equal chances among the chosen words, as their places among the known ones."""
    codes = np.array(sorted(known.index(word) for word in chosen))
    drawn: np.ndarray = codes[_among(uniform, len(codes))]
    return drawn


def _places(
    head: dict[str, np.ndarray], radius: np.ndarray, tries: np.ndarray, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The main object near the middle; each other at the first of its tries that keeps clear, or at the clearest."""
    x, y = np.zeros_like(radius), np.zeros_like(radius)
    x[:, 0], y[:, 0] = 0.37 + 0.26 * head["x"], 0.38 + 0.24 * head["y"]
    for place in range(1, most):
        margin = radius[:, place, None] + 0.03
        tried_x, tried_y = (margin + (1 - 2 * margin) * tries[:, place, i::2] for i in (0, 1))
        clear = np.full(tried_x.shape, GAP)
        for other in range(place):
            dx, dy = tried_x - x[:, other, None], tried_y - y[:, other, None]
            reach = radius[:, place, None] + radius[:, other, None]
            clear = np.minimum(clear, np.sqrt(dx * dx + dy * dy) - reach)
        best = clear.argmax(1)[:, None]
        x[:, place] = np.take_along_axis(tried_x, best, 1)[:, 0]
        y[:, place] = np.take_along_axis(tried_y, best, 1)[:, 0]
    return x, y
