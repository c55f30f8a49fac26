"""The truth of a scene: its attributes as words, its objects one by one, and a caption of all."""

from __future__ import annotations

from dataclasses import dataclass

from flexframe_standard.sources.scenes.layout import Layout
from flexframe_standard.sources.scenes_config import SHAPES, TEXTURES, WORDS

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


def caption(layout: Layout, row: int, lit: bool) -> str:
    """A sentence that says what the attributes say, and names the smaller objects too."""
    word = {name: words[layout.attributes[name][row]] for name, words in WORDS.items()}
    main, *others = [
        f"{_SURFACE[TEXTURES[layout.texture[row, i]]]}{WORDS['colour'][layout.colour[row, i]]} "
        f"{SHAPES[layout.shape[row, i]]}"
        for i in range(layout.count[row])
    ]
    company = [f"a small {other}" for other in others]
    beside = f" with {', '.join(company[:-1])}{' and ' if company[1:] else ''}{company[-1]}" if company else ""
    light = f", lit from {_the(word['light'])}" if lit else ""
    return f"{_article(main)} {main}{beside}, {_BEHIND[word['background']]} in {word['palette']} colours{light}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _the(light: str) -> str:
    return light if light == "above" else f"the {light}"
