"""Agreement of a classifier on images and on their reconstructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.data.source import Source
from flexframe_registry import Spec
from flexframe_standard.metrics.asked_class import AskedClass
from flexframe_standard.metrics.classifier_config import ClassifierConfig
from flexframe_standard.metrics.judges import Judge, SourceJudge
from flexframe_standard.metrics.support_vectors import Machine

T = TypeVar("T")


@dataclass
class Readings(Tally["Classifier"]):
    """Counts of images in which the classifier agreed with itself, and in which it was right, by what it reads."""

    count: int = 0
    agreed: int = 0
    right: dict[str, int] = field(init=False)
    right_originals: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        judge = self.metric.judge
        self.right = dict.fromkeys((judge.label, *judge.values), 0)
        self.right_originals = dict(self.right)

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        judge = self.metric.judge
        label, read, originals = judge.label, judge.read(batch.fake), judge.originals(batch.real)
        truth = {name: np.array([known[name] for known in batch.attributes]) for name in judge.values}
        truth[label] = np.array(batch.labels)
        same, right = read[label] == originals[label], {name: read[name] == known for name, known in truth.items()}
        self.count += len(batch.real)
        self.agreed += int(same.sum())
        for name, known in truth.items():
            self.right[name] += int(right[name].sum())
            self.right_originals[name] += int((originals[name] == known).sum())
        others = {f"accuracy_{name}": right[name] for name in judge.values}
        each = self.metric.named({"agreement": same, "accuracy": right[label], **others})
        return {name: torch.from_numpy(100.0 * hits) for name, hits in each.items()}

    def compute(self) -> Mapping[str, float]:
        judge = self.metric.judge
        shares = {name: 100 * right / self.count for name, right in self.right.items()}
        others = {f"accuracy_{name}": shares[name] for name in judge.values}
        return self.metric.named(
            {"agreement": 100 * self.agreed / self.count, "accuracy": shares[judge.label], **others}
        )

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        judge, right = self.metric.judge, self.right_originals
        others = {f"accuracy_{name}": right[name] for name in judge.values}
        found = self.metric.named({"accuracy": right[judge.label], **others})
        return {name: {"original": 100 * number / self.count} for name, number in found.items()}

    def protocol(self) -> Mapping[str, Any]:
        judge, right = self.metric.judge, self.right_originals
        shares = {name: 100 * number / self.count if self.count else None for name, number in right.items()}
        accuracy = shares if judge.values else shares[judge.label]
        return {**self.metric.protocol(), "accuracy_on_originals_percent": accuracy}


class Classifier(Metric[ClassifierConfig]):
    """Shares of what a classifier reads off reconstructions, beside what it reads off the originals and what is true.

    Of one image, a number is 100 or 0: so shares have intervals as other means of per-image values have.
    """

    tally = Readings

    def __init__(self, config: ClassifierConfig, source: Source) -> None:
        super().__init__(config, source)
        self.judge: Judge = (
            SourceJudge(source, config.judge) if config.data is None else Machine(config, config.data, source)
        )

    def of_samples(self) -> AskedClass:
        return AskedClass(self.config, self.source, self.judge)

    def measures(self) -> Sequence[Measure]:
        config, label = self.config, self.judge.label.capitalize()
        right = f"share of the rebuilt pictures in which {config.who} reads it right"
        kept = f"share of the rebuilt pictures in which {config.who} reads what it reads in the original"
        told = {
            "agreement": (f"{label} as in the original", kept, 0),
            "accuracy": (f"{label} right", right, len(self.source.class_names())),
            **{f"accuracy_{n}": (f"{n.capitalize()} right", right, k) for n, k in self.judge.values.items()},
        }
        return [
            Measure(
                name, f"{called}{config.said}", "higher", "%", 1, note, "accuracy" if name == "agreement" else "",
                chance=100 / values if values else None, by=config.by, who=self.judge.about,
            )
            for name, (called, note, values) in self.named(told).items()
        ]  # fmt: skip

    def named(self, numbers: Mapping[str, T]) -> dict[str, T]:
        """Numbers by the names that they have of this judge. Of the second one only what is true: its images are those
        of a source, whose labels are known, and so the share of same labels says the same once more."""
        if self.config.judge is None:
            return dict(numbers)
        return {f"{self.config.prefix}{name}": each for name, each in numbers.items() if name != "agreement"}

    def unavailable(self, spec: Spec) -> str | None:
        return self.judge.unavailable()

    def protocol(self) -> Mapping[str, Any]:
        judged = {"label_is": self.judge.label, "values": {**self.judge.values}} if self.judge.values else {}
        return {**self.judge.protocol(), **judged}
