"""The Inception score (Salimans et al., 2016), with the classes and splits of torch-fidelity's Inception network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.data.source import Source
from flexframe_registry import Spec
from flexframe_standard.metrics.features import DRAWN, REBUILT, Task
from flexframe_standard.metrics.inception import LOGITS, WIDTHS, inception
from flexframe_standard.metrics.inception_score_config import InceptionScoreConfig


@dataclass
class Splits(Tally["InceptionScore"]):
    """Sums over the images of each split. An image's split follows from its position."""

    count: int = 0
    finite: bool = True
    shares: Float[Tensor, "splits classes"] = field(init=False)
    """Sums of p(class | image)."""
    entropies: Float[Tensor, " splits"] = field(init=False)
    """Sums of the negative entropies of p(class | image)."""
    sizes: Float[Tensor, " splits"] = field(init=False)

    def __post_init__(self) -> None:
        splits = self.metric.config.splits
        self.shares = torch.zeros(splits, WIDTHS[LOGITS], dtype=torch.float64)
        self.entropies = torch.zeros(splits, dtype=torch.float64)
        self.sizes = torch.zeros(splits, dtype=torch.float64)

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        logits = self.metric.features.net(batch.fake)[LOGITS].double().cpu()
        self.finite = self.finite and bool(torch.isfinite(logits).all())
        at = self.scratch.start + self.count
        split = self.metric.split[at : at + len(logits)]
        logs = logits.log_softmax(1)
        self.shares.index_add_(0, split, logs.exp())
        self.entropies.index_add_(0, split, (logs.exp() * logs).sum(1))
        self.sizes.index_add_(0, split, torch.ones_like(split, dtype=torch.float64))
        self.count += len(logits)
        return {}

    def scores(self) -> Float[Tensor, " splits"]:
        """The score of each split."""
        mean = self.shares / self.sizes[:, None]
        divergence: Tensor = self.entropies / self.sizes + torch.special.entr(mean).sum(1)
        return divergence.exp()

    def compute(self) -> Mapping[str, float]:
        scores = self.scores()
        return {"is": float(scores.mean()), "is-std": float(scores.std(correction=0))}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        splits = self.metric.config.splits
        if splits == 1:
            return {}
        return {"is": {"subsets": {"size": self.count // splits, "values": self.scores().tolist()}}}

    def unavailable(self) -> str | None:
        if not self.finite:
            path = self.metric.features.net.path
            return f"the weights {path} are incomplete: their logits are not finite; use whole weights"
        return super().unavailable()


class InceptionScore(Metric[InceptionScoreConfig]):
    """exp of the mean divergence of p(class | image) from p(class), over splits: sums alone are kept.

    Which image is in which split follows from its position by torch-fidelity's permutation.
    """

    tally = Splits

    def __init__(self, config: InceptionScoreConfig, source: Source, task: Task = REBUILT) -> None:
        super().__init__(config, source)
        self.task = task
        self.features = inception(source, config.weights)
        self.refused = self._refusal(len(source))
        if self.refused is None:
            self.features.want(LOGITS, originals=False)
            order = np.random.RandomState(config.seed).permutation(len(source))
            places = np.empty_like(order)
            places[order] = np.arange(len(order))
            ends = np.arange(1, config.splits + 1) * len(order) // config.splits
            self.split = torch.from_numpy(np.searchsorted(ends, places, side="right"))

    def _refusal(self, count: int) -> str | None:
        classes, splits = WIDTHS[LOGITS], self.config.splits
        if count < splits:
            return f"{count:,} images do not fill {splits} splits; lower `splits` or raise the suite's `count`"
        if count >= classes * splits or self.config.few:
            return None
        lacking = f"{splits} splits of {count:,} images hold fewer than the {classes:,} classes that they are to cover"
        return f"{lacking}; raise the suite's `count` to {classes * splits:,}, lower `splits`, or set `few: true`"

    def of_samples(self) -> InceptionScore:
        return InceptionScore(self.config, self.source, DRAWN)

    def measures(self) -> Sequence[Measure]:
        note = f"of the {self.task.made} alone; ImageNet's classes, whatever the images are"
        return [
            Measure("is", "IS", "higher", note=note),
            Measure("is-std", "IS ±", note="over the splits"),
        ]

    def unavailable(self, spec: Spec) -> str | None:
        return self.refused or self.features.net.unavailable()

    def protocol(self) -> Mapping[str, Any]:
        return {**self.features.facts(LOGITS), self.task.made: "8-bit"}
