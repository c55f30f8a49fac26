"""Kernel distance, precision and recall, inception score: on features of torch-fidelity's Inception network.

The definitions and defaults are torch-fidelity's; the arithmetic is float64 throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe.data.source import Source
from flexframe_registry import MetricConfig, Spec
from flexframe_standard.metrics.feature_files import BLOCK
from flexframe_standard.metrics.fid import Stored, parts
from flexframe_standard.metrics.inception import LOGITS, WIDTHS, shared

LEAST = 1000
"""Images below which precision and recall are refused: at k = 3 the balls of so few say little of a distribution."""
TILE = 1024
"""Rows of a matrix of distances that are held at once, each of `BLOCK` columns."""


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared MMD with the kernel (x·y / d + 1)³ (Bińkowski et al., 2018)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    m, n = len(x), len(y)
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())


class Kid(Stored):
    """Mean and standard deviation of the MMD over random subsets, the ones that torch-fidelity draws."""

    def measures(self) -> Sequence[Measure]:
        name, usual = (
            self.named("kid"),
            f"over subsets of {self.config.subset_size}; may be below 0 where sets are alike",
        )
        return [
            Measure(name, name.upper(), "lower", digits=5, note=self.note(usual)),
            Measure(f"{name}-std", f"{name.upper()} ±", digits=5, note="over the subsets"),
        ]

    def refusal(self, count: int) -> str | None:
        if count >= self.config.subset_size:
            return None
        lacking = f"subsets of {self.config.subset_size:,} images cannot be drawn from {count:,}"
        return f"{lacking}; raise the suite's `count`, or lower the metric's `subset_size`"

    def compute(self) -> Mapping[str, float]:
        real, fake = self.pair()
        draws, size, found = np.random.RandomState(self.config.seed), self.config.subset_size, []
        for _ in range(self.config.subsets):  # reconstructions are drawn first, as torch-fidelity does
            some = fake[draws.choice(len(fake), size, replace=False)]
            found.append(polynomial_mmd(some, real[draws.choice(len(real), size, replace=False)]))
        name = self.named("kid")
        return {name: float(np.mean(found)), f"{name}-std": float(np.std(found))}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        some = parts(self.count)
        if not some:
            return {}
        real, fake = self.pair()
        values = [polynomial_mmd(fake[part], real[part]) for part in some]
        return {self.named("kid"): {"subsets": {"size": len(some[0]), "values": values}}}

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "kernel": "(x·y / d + 1)³", "estimate": "unbiased"}


def radii(features: np.ndarray, k: int) -> Float[Tensor, " n"]:
    """Squared distance of each vector to its k-th nearest other one."""
    found = []
    for some in _blocks(features, TILE):
        nearest = some.new_zeros(len(some), 0)
        for distances in _distances(some, features):
            nearest = torch.cat([nearest, distances], 1)
            nearest = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).values
        found.append(nearest[:, k])  # the nearest is the vector itself
    return torch.cat(found)


def within(points: np.ndarray, centres: np.ndarray, radius: Float[Tensor, " n"]) -> float:
    """The share of points that lie in any centre's ball."""
    inside = 0
    for some in _blocks(points, TILE):
        found = torch.zeros(len(some), dtype=torch.bool)
        for distances, ball in zip(_distances(some, centres), radius.split(BLOCK), strict=True):
            found |= (distances <= ball).any(1)
        inside += int(found.sum())
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


class PrecisionRecall(Stored):
    """Share of reconstructions among the originals, and of originals among the reconstructions."""

    def measures(self) -> Sequence[Measure]:
        k = f"{self.config.k} neighbours"
        return [
            Measure(self.named("precision"), self._label("Precision"), "higher", digits=3, note=self.note(k)),
            Measure(self.named("recall"), self._label("Recall"), "higher", digits=3, note=self.note(k)),
        ]

    def _label(self, name: str) -> str:
        return name if self.layer == "2048" else f"{name}@{self.layer}"

    def refusal(self, count: int) -> str | None:
        if count <= self.config.k + 1:
            return f"{count:,} images have too few neighbours for k = {self.config.k}; raise the suite's `count`"
        if count >= LEAST or self.config.few:
            return None
        fewer = f"needs {LEAST:,} images, and there are {count:,}: balls around few say little of a distribution"
        return f"{fewer}; raise the suite's `count`, or set `few: true`"

    def compute(self) -> Mapping[str, float]:
        real, fake = self.pair()
        k = self.config.k
        ours = self.features.derived(("radii", self.layer, self.count, k), lambda: radii(real, k))
        found = {"precision": within(fake, real, ours), "recall": within(real, fake, radii(fake, k))}
        return {self.named(name): value for name, value in found.items()}


class InceptionScore(Metric):
    """exp of the mean divergence of p(class | image) from p(class), over splits: sums alone are kept.

    Which image is in which split follows from its position by torch-fidelity's permutation.
    """

    tallied = ("count", "finite", "shares", "entropies", "sizes")
    drawn = False
    """Whether it is of samples of a prior, and not of reconstructions."""

    def of_samples(self) -> Metric:
        found = copy(self)
        found.drawn = True
        return found

    def __init__(self, config: MetricConfig, source: Source) -> None:
        super().__init__(config, source)
        self.features = shared(source, config.weights)
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

    def measures(self) -> Sequence[Measure]:
        what = "samples" if self.drawn else "reconstructions"
        note = f"of the {what} alone; ImageNet's classes, whatever the images are"
        return [
            Measure("is", "IS", "higher", note=note),
            Measure("is-std", "IS ±", note="over the splits"),
        ]

    def reset(self, spec: Spec) -> None:
        self.count, self.finite, self.device = 0, True, torch.device("cpu")
        self.shares = torch.zeros(self.config.splits, WIDTHS[LOGITS], dtype=torch.float64)
        self.entropies = torch.zeros(self.config.splits, dtype=torch.float64)
        self.sizes = torch.zeros(self.config.splits, dtype=torch.float64)

    def unavailable(self) -> str | None:
        if not self.finite:
            return (
                f"the weights {self.features.net.path} are incomplete: their logits are not finite; use whole weights"
            )
        return self.refused or self.features.net.unavailable()

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        logits = self.features.net(batch.fake)[LOGITS].double().cpu()
        self.device = batch.fake.device
        self.finite = self.finite and bool(torch.isfinite(logits).all())
        split = self.split[self.count : self.count + len(logits)]
        logs = logits.log_softmax(1)
        self.shares.index_add_(0, split, logs.exp())
        self.entropies.index_add_(0, split, (logs.exp() * logs).sum(1))
        self.sizes.index_add_(0, split, torch.ones_like(split, dtype=torch.float64))
        self.count += len(logits)
        return {}

    def _scores(self) -> Float[Tensor, " splits"]:
        mean = self.shares / self.sizes[:, None]
        return (self.entropies / self.sizes + torch.special.entr(mean).sum(1)).exp()

    def compute(self) -> Mapping[str, float]:
        scores = self._scores()
        return {"is": float(scores.mean()), "is-std": float(scores.std(correction=0))}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        if self.config.splits == 1:
            return {}
        return {"is": {"subsets": {"size": self.count // self.config.splits, "values": self._scores().tolist()}}}

    def protocol(self) -> Mapping[str, Any]:
        what = "samples" if self.drawn else "reconstructions"
        return {**self.features.facts(LOGITS, self.device), what: "8-bit"}
