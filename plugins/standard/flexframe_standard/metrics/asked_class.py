"""The class asked for: whether samples show it, to a classifier. What the metric `classifier` is of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.data.source import Source
from flexframe_registry import Spec
from flexframe_standard.metrics.classifier_config import ClassifierConfig
from flexframe_standard.metrics.judges import Judge


@dataclass
class Shown(Tally["AskedClass"]):
    """Samples that show the class asked for, and how many there were."""

    count: int = 0
    right: int = 0

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        judge = self.metric.judge
        seen = torch.as_tensor(judge.read(batch.fake)[judge.label])
        right = seen == torch.tensor([int(label or 0) for label in batch.labels])  # no class: refused before
        self.count += len(right)
        self.right += int(right.sum())
        return {self.metric.name: 100.0 * right}

    def compute(self) -> Mapping[str, float]:
        return {self.metric.name: 100 * self.right / self.count}


class AskedClass(Metric[ClassifierConfig]):
    """The share of samples in which a classifier sees the class asked for."""

    of_classes = True
    tally = Shown

    def __init__(self, config: ClassifierConfig, source: Source, judge: Judge) -> None:
        super().__init__(config, source)
        self.judge, self.name = judge, f"{config.prefix}accuracy"

    def measures(self) -> Sequence[Measure]:
        names = self.source.class_names()
        by, note = self.config.by, f"share of samples in which {self.config.who} sees it"
        chance = 100 / len(names) if names else None
        label = f"Class asked for{self.config.said}"
        return [Measure(self.name, label, "higher", "%", 1, note, chance=chance, by=by, who=self.judge.about)]

    def unavailable(self, spec: Spec) -> str | None:
        return self.judge.unavailable()

    def protocol(self) -> Mapping[str, Any]:
        return {**self.judge.protocol(), "label_is": self.judge.label, "samples": "8-bit"}
