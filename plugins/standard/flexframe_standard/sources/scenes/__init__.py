"""Procedural scenes: the source `scenes`, its renderer and its ground truth."""

from flexframe_standard.sources.scenes.render import VERSION, render
from flexframe_standard.sources.scenes.source import Scenes
from flexframe_standard.sources.scenes.truth import Placed

__all__ = ["VERSION", "Placed", "Scenes", "render"]
