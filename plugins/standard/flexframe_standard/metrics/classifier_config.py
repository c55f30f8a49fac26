"""Settings of the classifier. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from flexframe_registry import ConfigError, MetricConfig, SourceConfig
from flexframe_registry.kinds import Cause
from flexframe_registry.slots import resolve

Which = Literal["second"] | None
"""The judge among a source's classifiers; None is the first. It is None and no word, so that a number of before, which
does not say, is the same number."""


def by(judge: Which) -> str:
    """The name of one of a source's judges, in labels."""
    return f"{judge or 'first'} judge"


class ClassifierConfig(MetricConfig):
    """Agreement of a classifier on an image and on its reconstruction.

    A support vector machine on pixels, trained on `data`; or the one that comes with the suite's source, which may also
    read attributes, each of them a number of its own.
    """

    causes: ClassVar[Sequence[Cause]] = (
        Cause("versions", ("measured.scikit-learn", "measured.trained_on.images.pillow")),
        Cause("reconstructions or samples", ("measured.samples",)),
        Cause(
            "training images of the classifier",
            ("measured.trained_on*", "measured.training_images"),
            "another classifier, which reads other labels off the same images: no number of its compares",
        ),
        # by attribute it follows from the images, for the classifier's file is hashed
        Cause("readings", ("measured.accuracy_on_originals_percent.*",), "none of its own", moves="nothing"),
        Cause(
            "what the classifier reads off the originals",
            ("measured.accuracy_on_originals_percent",),
            "the same originals read otherwise, so another classifier; files of before its training images were hashed "
            "show it by this alone",
            follows=(
                "content of the images",
                "resolution",
                "resize and crop",
                "number of images",
                "file format",
                "data set or split",
                "training images of the classifier",
                "settings of the metric",
            ),
        ),
    )
    type: Literal["classifier"] = "classifier"
    data: Annotated[SerializeAsAny[SourceConfig] | None, BeforeValidator(partial(resolve, "source"))] = None
    """Labelled images to train it on, of the suite's classes and none of the suite's images; not given: the classifier
    that comes with the suite's source."""
    judge: Which = None
    """`second`: the source's other classifier, of another architecture, seed and training. A model that the first one
    taught is measured by this one. Its numbers are called as the first one's, behind `second_`."""
    limit: int = Field(5000, ge=2)
    """The most training images, evenly spread over those of `data`."""
    c: float = Field(10.0, gt=0)
    """Inverse strength of the machine's regularisation."""

    @model_validator(mode="after")
    def _one_judge(self) -> ClassifierConfig:
        if self.data is not None and self.judge is not None:
            raise ConfigError.at("judge", "is of the suite's source, and `data` names images to train another one on")
        return self

    @property
    def prefix(self) -> str:
        """The beginning of its numbers' names."""
        return "" if self.judge is None else f"{self.judge}_"

    @property
    def by(self) -> str:
        """The judge's name in labels; none of one that is trained on `data`, which is the only one."""
        return by(self.judge) if self.data is None else ""

    @property
    def said(self) -> str:
        """The end of its numbers' labels."""
        return f", {self.by}" if self.by else ""

    @property
    def who(self) -> str:
        """The judge in the words of a note."""
        return f"the {self.by}" if self.data is None else f"a support vector machine trained on {self.data.type}"
