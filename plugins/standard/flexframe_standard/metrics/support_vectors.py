"""A support vector machine on pixels: the classifier that the metric `classifier` trains on labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from flexframe.bench.protocol import Digest, settings
from flexframe.data.source import Source
from flexframe_registry import ConfigError, SourceConfig, catalogue
from flexframe_standard.metrics.classifier_config import ClassifierConfig
from flexframe_standard.metrics.judges import Judge


class Machine(Judge):
    """An RBF support vector machine on pixels, trained when it is first needed.

    Raises:
        ConfigError: training images whose classes are not the suite's, that have no labels, or are all of one class.
    """

    def __init__(self, config: ClassifierConfig, data: SourceConfig, source: Source) -> None:
        self.config, self.source = config, source
        self.data = data.like(source.config)
        self.train = catalogue().build(self.data, source.size, place="classifier.data")
        self.facts: dict[str, Any] = {}
        """What is known of the training images once they were read."""
        self.fit = cache(self._fit)
        _same_classes(self.train.class_names(), source.class_names())

    def unavailable(self) -> str | None:
        if self.source[0].label is None:
            return "the suite's images have no labels to compare with; use a labelled source"
        self.fit()  # so that what it was trained on is known before the first image
        return None

    def read(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, np.ndarray]:
        return {self.label: self.fit().predict(_flat(images.cpu()))}

    def protocol(self) -> Mapping[str, Any]:
        machine = {"model": "sklearn.svm.SVC, RBF kernel, gamma scale, on pixels in [0, 1]", "c": self.config.c}
        return {**machine, **self.facts, "scikit-learn": version("scikit-learn")}

    def _fit(self) -> Any:
        from sklearn.svm import SVC  # type: ignore[import-untyped]

        # evenly spread: sources are often in the order of their classes
        count, most = len(self.train), self.config.limit
        samples = self.train.samples([i * count // most for i in range(most)] if count > most else range(count))
        bare = next((sample.id for sample in samples if sample.label is None), None)
        if bare is not None:
            raise ConfigError.at("classifier.data", f"its image {bare!r} has no label; name labelled images")
        known = [sample.label for sample in samples]
        if len(set(known)) < 2:
            text = f"{len(known):,} of its images are all of one class; raise `limit`, or name images of several"
            raise ConfigError.at("classifier.data", text)
        images, digest, labels = torch.stack([sample.image for sample in samples]), Digest(), Digest()
        digest.add(images)
        labels.add(torch.tensor(known))
        trained_on = {"data": settings(self.data), "images": dict(self.train.protocol()), "sha256": digest.hex()}
        names = {"class_names": list(self.train.class_names())} if self.train.class_names() else {}
        trained_on |= {"labels_sha256": labels.hex(), **names}
        self.facts = {"trained_on": trained_on, "training_images": len(samples)}
        return SVC(C=self.config.c).fit(_flat(images), known)


def _same_classes(training: Sequence[str], suite: Sequence[str]) -> None:
    """Labels are numbers: where both sides name them, a number must mean one class."""
    if not training or not suite or tuple(training) == tuple(suite):
        return
    apart = next((i for i, (a, b) in enumerate(zip(training, suite, strict=False)) if a != b), None)
    told = f"its images are of {len(training)} classes, the suite's of {len(suite)}"
    if apart is not None:
        told = f"label {apart} is {training[apart]!r} in its images and {suite[apart]!r} in the suite's"
    raise ConfigError.at("classifier.data", f"{told}; name images of the suite's classes, and of all of them")


def _flat(images: UInt8[Tensor, "b 3 h w"]) -> np.ndarray:
    return images.flatten(1).double().div(255).numpy()
