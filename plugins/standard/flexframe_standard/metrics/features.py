"""Base of the metrics over Inception's features: the shared network, and rows kept on disk until the end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from flexframe.bench.metric import Metric, Reconstructions, Tally
from flexframe.data.source import Source
from flexframe_registry import MetricConfig, Spec
from flexframe_standard.metrics.feature_files import Rows
from flexframe_standard.metrics.inception import SPATIAL, Features, inception
from flexframe_standard.metrics.inception_config import LayerConfig

LayerC = TypeVar("LayerC", bound=MetricConfig, default=LayerConfig)
ComparedM = TypeVar("ComparedM", bound="Compared[Any]", default="Compared[Any]")
CHECK = "a check of the pipeline, not comparable to any published number"
"""The remark on distances in layers other than the last."""
USUAL = "2048", SPATIAL
"""Layers that published numbers are of."""
PARTS, FEWEST, PARTS_SEED = 10, 3, 2020
"""Disjoint parts of the images over which distances are given apart, and the images that each has at least."""


@dataclass(frozen=True)
class Task:
    """A task in words: what models make, and what stands beside it."""

    made: str
    reference: str
    own: str
    prefix: str
    """The beginning of a Fréchet distance's label."""


REBUILT = Task("reconstructions", "the suite's own images, as the models saw them", "against these same images", "")
DRAWN = Task("samples", "the suite's images", "against the suite's images", "g")


@dataclass
class Stored(Tally[ComparedM]):
    """The count of a metric that needs features at the end: those of what a model made are kept on disk until then."""

    count: int = 0
    finite: bool = True

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        metric, features, at = self.metric, self.metric.features, self.scratch.start + self.count
        if self.finite:
            if metric.paired:  # first: the network remembers its last batch for the other metrics
                features.originals(at, batch.real, self.scratch)
                self.finite = features.finite[metric.layer]
            rows = features.net(batch.fake)[metric.layer]
            self.finite = self.finite and bool(torch.isfinite(rows).all())
            self.fake().write(at, rows.float())
        self.count += len(batch.real)
        return {}

    def fake(self) -> Rows:
        """The file of the features of what the model made."""
        return self.metric.features.rows(self.scratch.own, self.metric.layer, "reconstructions")

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the originals, and of what the model made, mapped into memory; the former stay for later runs."""
        metric = self.metric
        metric.features.keep(metric.layer, self.count)
        return metric.features.reference(metric.layer).read(self.count), self.fake().read(self.count)

    def unavailable(self) -> str | None:
        if not self.finite:
            where = f"its features at layer {self.metric.layer} are not finite numbers"
            path = self.metric.features.net.path
            return f"the weights {path} are incomplete: {where}; use a lower `layer` or whole weights"
        return super().unavailable()


class Compared(Metric[LayerC]):
    """A metric between the features of originals and of what models make of them.

    Subclasses set what `refusal` needs before they call this constructor.
    """

    paired = True
    """True where the suite's own images are what is compared with."""

    def __init__(self, config: LayerC, source: Source, task: Task = REBUILT) -> None:
        super().__init__(config, source)
        self.task = task
        self.features, self.layer = self.network()
        self.refused = self.refusal(len(source))
        if self.refused is None:
            self.features.want(self.layer, originals=self.paired)

    def of_samples(self) -> Compared[LayerC]:
        return type(self)(self.config, self.source, DRAWN)

    def network(self) -> tuple[Features, str]:
        """Name what makes the features, and the layer that they are of."""
        config = self.config
        assert isinstance(config, LayerConfig)
        return inception(self.source, config.weights), config.layer

    @abstractmethod
    def refusal(self, count: int) -> str | None:
        """The reason why so few images give no meaningful number, and what to do, or None."""

    def named(self, name: str) -> str:
        """The name of a number, which says the layer if that is not the usual one."""
        return name if self.layer == "2048" else f"{name}@{self.layer}"

    def note(self, usual: str) -> str:
        """The note of a number, which says so if the layer is not the usual one."""
        return usual if self.layer in USUAL else CHECK

    def unavailable(self, spec: Spec) -> str | None:
        return self.refused or self.features.net.unavailable()

    def protocol(self) -> Mapping[str, Any]:
        task = {"reference": self.task.reference, self.task.made: "8-bit"}
        check = {} if self.layer in USUAL else {"pipeline_check": CHECK}
        return {**self.features.facts(self.layer), **task, **check}


def parts(count: int) -> Sequence[np.ndarray]:
    """The disjoint parts of so many images over which a distance is given apart: the same ones for all models, at
    random, for images may be sorted; none where they would hold fewer than `FEWEST` each."""
    if count < PARTS * FEWEST:
        return []
    return [np.sort(part) for part in np.array_split(np.random.RandomState(PARTS_SEED).permutation(count), PARTS)]
