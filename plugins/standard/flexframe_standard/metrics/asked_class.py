"""What is measured of samples alone: whether they show the class that they were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe.data.source import Source
from flexframe_registry import MetricConfig, Spec
from flexframe_standard.metrics.judges import Judge


class AskedClass(Metric):
    """The share of samples in which a classifier sees the class asked for: the metric `classifier`, of samples."""

    tallied = ("count", "right")
    of_classes = True

    def __init__(self, config: MetricConfig, source: Source, judge: Judge) -> None:
        super().__init__(config, source)
        self.judge = judge

    def measures(self) -> Sequence[Measure]:
        names = self.source.class_names()
        chance = f"; {100 / len(names):.1f} by chance" if names else ""
        note = f"share of samples in which the classifier sees it{chance}"
        return [Measure("accuracy", "Class asked for", "higher", "%", 1, note)]

    def reset(self, spec: Spec) -> None:
        self.count = self.right = 0

    def unavailable(self) -> str | None:
        return self.judge.unavailable()

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        seen = torch.as_tensor(self.judge.read(batch.fake)[self.judge.label])
        right = seen == torch.tensor([int(label or 0) for label in batch.labels])  # no class: refused before
        self.count += len(right)
        self.right += int(right.sum())
        return {"accuracy": 100.0 * right}

    def compute(self) -> Mapping[str, float]:
        return {"accuracy": 100 * self.right / self.count}

    def protocol(self) -> Mapping[str, Any]:
        return {**self.judge.protocol(), "label_is": self.judge.label, "samples": "8-bit"}
