"""Settings that metrics over Inception's features have in common. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexframe_registry import MetricConfig
from flexframe_registry.kinds import PLACE


class InceptionConfig(MetricConfig):
    """A number over what torch-fidelity's Inception network makes of images."""

    weights: str | None = Field(None, json_schema_extra=PLACE)
    """File of torch-fidelity's Inception weights; not given: the one in torch's hub folder, fetched if need be."""


class LayerConfig(InceptionConfig):
    """A comparison of features of one layer."""

    layer: Literal["64", "192", "768", "2048"] = "2048"
    """Inception layer, by its width; published numbers are of 2048."""
