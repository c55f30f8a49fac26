"""Precision and recall (Kynkäänniemi et al., 2019) by neighbours in features of torch-fidelity's Inception network.

The definition and the defaults are torch-fidelity's; the arithmetic is float64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure
from flexframe.data.source import Source
from flexframe_registry import catalogue
from flexframe_standard.metrics.feature_files import BLOCK
from flexframe_standard.metrics.features import REBUILT, Compared, Stored, Task
from flexframe_standard.metrics.fid import Reference
from flexframe_standard.metrics.precision_recall_config import PrecisionRecallConfig

LEAST = 1000
"""Images below which precision and recall are refused: at k = 3 the balls of so few say little of a distribution."""
TILE = 1024
"""Rows of a matrix of distances that are held at once, each of `BLOCK` columns."""


def radii(features: np.ndarray, k: int) -> Float[Tensor, " n"]:
    """Squared distance of each vector to its k-th nearest other one."""
    squared = []
    for some in _blocks(features, TILE):
        nearest = some.new_zeros(len(some), 0)
        for distances in _distances(some, features):
            nearest = torch.cat([nearest, distances], 1)
            nearest = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).values
        squared.append(nearest[:, k])  # the nearest is the vector itself
    return torch.cat(squared)


def within(points: np.ndarray, centres: np.ndarray, radius: Float[Tensor, " n"]) -> float:
    """The share of points that lie in any centre's ball."""
    inside = 0
    for some in _blocks(points, TILE):
        covered = torch.zeros(len(some), dtype=torch.bool)
        for distances, ball in zip(_distances(some, centres), torch.split(radius, BLOCK), strict=True):
            covered |= (distances <= ball).any(1)
        inside += int(covered.sum())
    return inside / len(points)


def _blocks(features: np.ndarray, size: int) -> Iterator[Float[Tensor, "b d"]]:
    """In float64, some rows at a time: what is mapped from a file stays there."""
    for start in range(0, len(features), size):
        yield torch.from_numpy(features[start : start + size].astype(np.float64))


def _distances(some: Float[Tensor, "a d"], features: np.ndarray) -> Iterator[Float[Tensor, "a b"]]:
    """Squared distances to all features, a block of them at a time."""
    squares = some.square().sum(1, keepdim=True)
    for others in _blocks(features, BLOCK):
        yield (squares + others.square().sum(1) - 2 * some @ others.T).clamp(min=0)


@dataclass
class Neighbours(Stored["PrecisionRecall"]):
    """Features of what a model made, and the shares among neighbours at the end."""

    def compute(self) -> Mapping[str, float]:
        metric, k, features = self.metric, self.metric.config.k, self.metric.features
        if metric.other is None:
            real, fake = self.pair()
            ours = features.derived(("radii", metric.layer, self.count, k), lambda: radii(real, k))
        else:
            real = metric.other.rows(features, metric.layer, features.net.device)
            fake, ours = self.fake().read(self.count), metric.of_the_other()
        shares = {"precision": within(fake, real, ours), "recall": within(real, fake, radii(fake, k))}
        return {metric.named(name): value for name, value in shares.items()}


class PrecisionRecall(Compared[PrecisionRecallConfig]):
    """Share of reconstructions among the originals, and of originals among the reconstructions."""

    tally = Neighbours

    def __init__(self, config: PrecisionRecallConfig, source: Source, task: Task = REBUILT) -> None:
        self.other: Reference | None = None
        if config.reference is not None:
            data = config.reference.like(source.config)
            self.other = Reference(catalogue().build(data, source.size, place="reference"))
        self.paired = self.other is None
        self._radii: Tensor | None = None
        super().__init__(config, source, task)

    def of_the_other(self) -> Tensor:
        """Radii of the reference's images, computed once."""
        assert self.other is not None
        if self._radii is None:
            rows = self.other.rows(self.features, self.layer, self.features.net.device)
            self._radii = radii(rows, self.config.k)
        return self._radii

    def protocol(self) -> Mapping[str, Any]:
        other = {} if self.other is None else {"reference": self.other.protocol()}
        return {**super().protocol(), **other}

    def measures(self) -> Sequence[Measure]:
        note = self.note(f"{self.config.k} neighbours")
        return [
            Measure(self.named("precision"), self.named("Precision"), "higher", digits=3, note=note),
            Measure(self.named("recall"), self.named("Recall"), "higher", digits=3, note=note),
        ]

    def refusal(self, count: int) -> str | None:
        count = count if self.other is None else min(count, self.other.count)
        if count <= self.config.k + 1:
            return f"{count:,} images have too few neighbours for k = {self.config.k}; raise the suite's `count`"
        if count >= LEAST or self.config.few:
            return None
        fewer = f"needs {LEAST:,} images, and there are {count:,}: balls around few say little of a distribution"
        return f"{fewer}; raise the suite's `count`, or set `few: true`"
