"""Procedural scenes: the source `scenes`, its renderer and its ground truth."""

from flexframe.data.scenes.render import VERSION, render
from flexframe.data.scenes.source import Scenes
from flexframe.data.scenes.truth import Placed

__all__ = ["VERSION", "Placed", "Scenes", "render"]
