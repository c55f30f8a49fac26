"""Judges, which the `classifier` metric asks: the classifier of the source, or one that it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from torch import Tensor

from flexframe.data.source import AttributeClassifier, Source
from flexframe_standard.metrics.classifier_config import Which


class Judge(ABC):
    """Reads labels, and attributes if it knows any, off images. One is shared by all tallies."""

    label = "label"
    """The name that it gives the label."""
    values: Mapping[str, int] = {}
    """The attributes that it reads beside the label, and how many values each takes."""
    about = ""
    """What it is and where it comes from, for a reader who knows its name; empty where the name says it."""
    _last: tuple[Tensor, Mapping[str, np.ndarray]] | None = None

    @abstractmethod
    def read(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        """The label and the attributes, by name."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """The reason why it cannot judge, and how to mend it, or None."""

    @abstractmethod
    def protocol(self) -> Mapping[str, Any]:
        """Plain data that says which judge it is."""

    def originals(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        """The readings of a batch of originals, which all models and budgets see one after the other."""
        if self._last is None or self._last[0] is not images:
            self._last = (images, self.read(images))
        return self._last[1]


class SourceJudge(Judge):
    """A classifier that comes with the source of the suite's images: its first or its second."""

    _real: tuple[Tensor, Bool[Tensor, " b"]] | None = None

    def __init__(self, source: Source, which: Which = None) -> None:
        self._classifier: AttributeClassifier | None = None
        self._why = (
            "the suite's images come with no classifier; name labelled images to train one on as `data`"
            if which is None
            else "the suite's images come with no second classifier; leave this metric out"
        )
        try:
            self._classifier = source.classifier() if which is None else source.second_classifier()
        except ValueError as error:
            self._why = str(error)
        if self._classifier is not None:
            self.label = self._classifier.label
            self.values = {name: n for name, n in self._classifier.values.items() if name != self.label}
            facts, must = self._classifier.protocol(), "may teach models" if which is None else "must teach no model"
            learnt = f" trained on {facts['trained_on']}" if "trained_on" in facts else ""
            self.about = f"a classifier that ships with the images ({facts.get('classifier', '')}){learnt}; it {must}"
            self.about = self.about.replace(" ()", "")

    def read(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        assert self._classifier is not None
        return {name: read.cpu().numpy() for name, read in self._classifier(images).items()}

    def unavailable(self) -> str | None:
        return self._why if self._classifier is None else None

    def plausible(self, images: UInt8[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """The images that the classifier is as sure of as of the source's own."""
        assert self._classifier is not None
        known = self._classifier.plausible(images)
        assert known is not None
        return known

    def plausible_originals(self, images: UInt8[Tensor, "b 3 h w"]) -> Bool[Tensor, " b"]:
        """The plausible of a batch of originals, which all models and budgets see one after the other."""
        if self._real is None or self._real[0] is not images:
            self._real = (images, self.plausible(images))
        return self._real[1]

    def calibration(self) -> Mapping[str, Any]:
        """Plain data that says what is plausible; empty where the classifier tells no confidence."""
        return {} if self._classifier is None else self._classifier.calibration()

    def protocol(self) -> Mapping[str, Any]:
        return {} if self._classifier is None else self._classifier.protocol()
