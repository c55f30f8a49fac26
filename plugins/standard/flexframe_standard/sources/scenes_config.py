"""Config of the procedural scenes, and the words for what can be in one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from flexframe_registry import ConfigError, SourceConfig

Palette = Literal["dawn", "day", "dusk", "night", "sand", "mint", "slate", "rose"]
Background = Literal["plain", "horizon", "clouds", "hills", "bokeh", "stripes", "ripples", "checker"]
Light = Literal["left", "upper left", "above", "upper right", "right"]
Shape = Literal["circle", "square", "triangle", "star", "ring", "cross", "heart", "crescent", "hexagon", "capsule"]
Colour = Literal["red", "orange", "yellow", "green", "teal", "blue", "violet", "pink"]
Texture = Literal["smooth", "bands", "dots", "checks", "waves"]

MOST = 8
"""The most objects of a scene."""
SHAPES: tuple[str, ...] = get_args(Shape)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
WORDS: Mapping[str, tuple[str, ...]] = {
    "palette": get_args(Palette),
    "background": BACKGROUNDS,
    "light": get_args(Light),
    "shape": SHAPES,
    "colour": get_args(Colour),
    "count": tuple(str(n) for n in range(1, MOST + 1)),
    "texture": TEXTURES,
}
"""What an attribute's integer means, by attribute; shape, colour and texture are those of the main object. Ordered from
what fills the picture to what is fine in it."""

_LEVELS: tuple[dict[str, Any], ...] = (
    {"objects": (1, 1), "textures": ("smooth",), "lighting": "flat", "backgrounds": ("plain",)},
    {"objects": (1, 2), "textures": ("smooth",), "lighting": "shaded", "backgrounds": ("plain", "horizon", "clouds")},
    {"objects": (1, 4), "textures": TEXTURES, "lighting": "shadows", "backgrounds": BACKGROUNDS},
    {"objects": (3, 6), "textures": TEXTURES, "lighting": "shadows", "backgrounds": BACKGROUNDS[2:]},
    {"objects": (5, 8), "textures": TEXTURES[1:], "lighting": "shadows", "backgrounds": BACKGROUNDS[3:]},
)


class ScenesConfig(SourceConfig):
    """Drawn scenes: a main object among smaller ones, soft-lit, before a background; at any size, with their truth.

    The label is the main object's shape. A scene follows from `seed`, its number and the settings, to the byte.
    """

    type: Literal["scenes"] = "scenes"
    sizes = {"tiny": {"count": 64}}
    split: Literal["train", "val"] = "train"
    """`train`: numbers 0, 1, 2, ...; `val`: numbers from 2**31 on, so that no scene is in both."""
    count: int = Field(50_000, ge=1, le=2**31)
    """Scenes in the set."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of all draws; another seed is another set of scenes."""
    complexity: int = Field(2, ge=0, le=4)
    """Sets those of `objects`, `textures`, `lighting` and `backgrounds` that are not given, from 0 (one flat shape
    before a plain ground) to 4 (five to eight textured objects before a busy ground)."""
    objects: tuple[int, int]
    """The fewest and the most objects of a scene, the main one among them; up to 8."""
    textures: tuple[Texture, ...]
    """What surfaces may be, with equal chance."""
    lighting: Literal["flat", "shaded", "shadows"]
    """`flat`: even colours; `shaded`: round surfaces in directed light; `shadows`: and soft shadows."""
    backgrounds: tuple[Background, ...]
    """What may be behind the objects, with equal chance."""

    @model_validator(mode="before")
    @classmethod
    def _fill_complexity(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        level = data.get("complexity")
        if not isinstance(level, int) or not 0 <= level < len(_LEVELS):
            level = 2  # what is no level is told by the field itself
        return {**_LEVELS[level], **data}

    @field_validator("textures", "backgrounds")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ConfigError.at("", f"names at least one, and each once, not {list(value)}")
        return value

    @model_validator(mode="after")
    def _check_objects(self) -> ScenesConfig:
        low, high = self.objects
        if not 1 <= low <= high <= MOST:
            raise ConfigError.at("objects", f"is the fewest and the most of 1 to {MOST}, not {low} and {high}")
        return self

    def chances(self) -> Mapping[str, int]:
        """Number of values that each attribute takes here, all equally likely. One that does not show is left out.

        The light of flat scenes does not show. What takes one value only carries nothing and is left out.
        """
        low, high = self.objects
        numbers = {name: len(words) for name, words in WORDS.items()}
        numbers |= {"background": len(self.backgrounds), "count": high - low + 1, "texture": len(self.textures)}
        if self.lighting == "flat":
            del numbers["light"]
        return {name: number for name, number in numbers.items() if number > 1}
