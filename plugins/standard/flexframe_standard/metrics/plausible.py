"""Share of pictures that a classifier is as sure of as of real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.data.source import Source
from flexframe_registry import Spec
from flexframe_standard.metrics.classifier_config import by
from flexframe_standard.metrics.judges import SourceJudge
from flexframe_standard.metrics.plausible_config import PlausibleConfig


@dataclass
class Sure(Tally["Plausible"]):
    """Pictures that are plausible, and how many there were."""

    count: int = 0
    plausible: int = 0
    plausible_originals: int = 0

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        hits = self.metric.judge.plausible(batch.fake).cpu()
        self.count += len(hits)
        self.plausible += int(hits.sum())
        self.plausible_originals += int(self.metric.judge.plausible_originals(batch.real).sum())
        return {self.metric.name: 100.0 * hits}

    def compute(self) -> Mapping[str, float]:
        return {self.metric.name: 100 * self.plausible / self.count}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        return {self.metric.name: {"original": 100 * self.plausible_originals / self.count}}


class Plausible(Metric[PlausibleConfig]):
    """The share of reconstructions, or of samples, that are plausible to a classifier of the source."""

    tally = Sure

    def __init__(self, config: PlausibleConfig, source: Source) -> None:
        super().__init__(config, source)
        self.judge = SourceJudge(source, config.judge)
        self.name = "plausible" if config.judge is None else f"{config.judge}_plausible"

    def of_samples(self) -> Plausible:
        return self

    def measures(self) -> Sequence[Measure]:
        named = by(self.config.judge)
        note = (
            f"share of pictures that look real to the {named}: it is as sure of what they show as of nine in ten real "
            "images that it was set by (not these), right or wrong"
        )
        return [Measure(self.name, f"Plausible, {named}", "higher", "%", 1, note, by=named, who=self.judge.about)]

    def unavailable(self, spec: Spec) -> str | None:
        why = self.judge.unavailable()
        if why is None and not self.judge.calibration():
            return "the classifier of the suite's images tells no confidence; leave this metric out"
        return why

    def protocol(self) -> Mapping[str, Any]:
        return {**self.judge.protocol(), **self.judge.calibration(), "pictures": "8-bit"}
