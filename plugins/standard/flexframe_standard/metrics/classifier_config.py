"""Settings of the classifier. Imports no torch."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from flexframe_registry import MetricConfig, SourceConfig
from flexframe_registry.slots import resolve


class ClassifierConfig(MetricConfig):
    """Whether a classifier sees the same in an image and in its reconstruction.

    A support vector machine on pixels, trained on `data`; or the one that comes with the suite's source, which may also
    read attributes, each of them a number of its own.
    """

    type: Literal["classifier"] = "classifier"
    data: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """Labelled images to train it on, of the suite's classes and none of the suite's images; not given: the classifier
    that comes with the suite's source."""
    limit: int = Field(5000, ge=2)
    """The most training images, evenly spread over those of `data`."""
    c: float = Field(10.0, gt=0)
    """Inverse strength of the machine's regularisation."""
