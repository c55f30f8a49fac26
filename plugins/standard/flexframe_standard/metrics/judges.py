"""Judges, which the `classifier` metric asks: the classifier of the source, or one that it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from flexframe.data.source import AttributeClassifier, Source


class Judge(ABC):
    """Reads labels, and attributes if it knows any, off images. One is shared by all tallies."""

    label = "label"
    """The name that it gives the label."""
    values: Mapping[str, int] = {}
    """The attributes that it reads beside the label, and how many values each takes."""
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
    """The classifier that comes with the source of the suite's images."""

    def __init__(self, source: Source) -> None:
        self._classifier: AttributeClassifier | None = None
        try:
            self._classifier = source.classifier()
            self._why = "the suite's images come with no classifier; name labelled images to train one on as `data`"
        except ValueError as error:
            self._why = str(error)
        if self._classifier is not None:
            self.label = self._classifier.label
            self.values = {name: n for name, n in self._classifier.values.items() if name != self.label}

    def read(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        assert self._classifier is not None
        return {name: read.cpu().numpy() for name, read in self._classifier(images).items()}

    def unavailable(self) -> str | None:
        return self._why if self._classifier is None else None

    def protocol(self) -> Mapping[str, Any]:
        return {} if self._classifier is None else self._classifier.protocol()
