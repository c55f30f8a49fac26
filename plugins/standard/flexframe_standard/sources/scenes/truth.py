"""The truth of a scene: its attributes as words, its objects one by one, and a caption of all."""

from __future__ import annotations

from dataclasses import dataclass

from flexframe_standard.sources.scenes.layout import Layout
from flexframe_standard.sources.scenes_config import SHAPES, TEXTURES, WORDS

LARGE, SMALL = 0.2, 0.075
"""Radii from which an object is large, and small: the main one is the one, and most others are the other."""
_SURFACE = {"smooth": "", "bands": "banded ", "dots": "dotted ", "checks": "checked ", "waves": "wavy "}
_BEHIND = {
    "plain": "before a plain wall",
    "horizon": "before a wall with a floor",
    "clouds": "among clouds",
    "hills": "before hills",
    "bokeh": "before blurred lights",
    "stripes": "before stripes",
    "ripples": "before ripples",
    "checker": "over a checkered floor",
}


@dataclass(frozen=True)
class Placed:
    """An object of a scene. Positions and radius are in the picture's shorter edge, from the upper left corner of the
    square in the middle of the picture."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float


def placed(layout: Layout, row: int) -> list[Placed]:
    """The objects of a scene, the main one first, in the order in which they are drawn over each other."""
    return [
        Placed(
            SHAPES[layout.shape[row, i]],
            WORDS["colour"][layout.colour[row, i]],
            TEXTURES[layout.texture[row, i]],
            float(layout.x[row, i]),
            float(layout.y[row, i]),
            float(layout.radius[row, i]),
        )
        for i in range(layout.count[row])
    ]


FORMS = ("class", "short", "objects", "long")
"""How much a caption says: the main object's shape; its colour too; all objects, how large and where; and the
background and the light."""


def captions(layout: Layout, row: int, lit: bool) -> dict[str, str]:
    """Words of what a scene shows, in words, by form."""
    word = {name: words[layout.attributes[name][row]] for name, words in WORDS.items()}
    main, *others = placed(layout, row)
    sides = [f"{_side(main, other)} {_with_article(_sized(other))}" for other in others]
    where = " alone" if not sides else f" {', '.join(sides[:-1])}{' and ' if sides[1:] else ''}{sides[-1]}"
    objects = _with_article(_sized(main)) + where
    light = f", lit from {_the(word['light'])}" if lit else ""
    told = (
        _with_article(main.shape),
        _with_article(f"{main.colour} {main.shape}"),
        objects,
        f"{objects}, {_BEHIND[word['background']]} in {word['palette']} colours{light}",
    )
    return dict(zip(FORMS, told, strict=True))


def size_of(thing: Placed) -> str:
    """A word for how large an object is."""
    return "large" if thing.radius >= LARGE else "small" if thing.radius >= SMALL else "tiny"


def _sized(thing: Placed) -> str:
    return f"{size_of(thing)} {_SURFACE[thing.texture]}{thing.colour} {thing.shape}"


def _side(thing: Placed, other: Placed) -> str:
    """Where an object is beside another, along the axis on which they are further apart."""
    return side_of(other.x - thing.x, other.y - thing.y)


def side_of(across: float, down: float) -> str:
    """The side where a thing lies that is so far to the right and so far down."""
    if abs(across) >= abs(down):
        return "left of" if across > 0 else "right of"
    return "above" if down > 0 else "below"


def _with_article(words: str) -> str:
    return f"{_article(words)} {words}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _the(light: str) -> str:
    return light if light == "above" else f"the {light}"
