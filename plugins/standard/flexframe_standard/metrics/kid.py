"""KID: the kernel distance (Bińkowski et al., 2018) between features of torch-fidelity's Inception network.

The definition and the defaults are torch-fidelity's; the arithmetic is float64 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexframe.bench.metric import Measure
from flexframe_standard.metrics.features import Compared, Stored, parts
from flexframe_standard.metrics.kid_config import KidConfig


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate of the squared MMD with the kernel (x·y / d + 1)³ (Bińkowski et al., 2018)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    m, n = len(x), len(y)
    xx, yy, xy = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2 * xy.mean())


@dataclass
class KernelDistance(Stored["Kid"]):
    """Features of what a model made, and their distances over random subsets at the end."""

    def compute(self) -> Mapping[str, float]:
        real, fake = self.pair()
        config = self.metric.config
        draws, size, distances = np.random.RandomState(config.seed), config.subset_size, []
        for _ in range(config.subsets):  # reconstructions are drawn first, as torch-fidelity does
            some = fake[draws.choice(len(fake), size, replace=False)]
            distances.append(polynomial_mmd(some, real[draws.choice(len(real), size, replace=False)]))
        name = self.metric.named("kid")
        return {name: float(np.mean(distances)), f"{name}-std": float(np.std(distances))}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        some = parts(self.count)
        if not some:
            return {}
        real, fake = self.pair()
        values = [polynomial_mmd(fake[part], real[part]) for part in some]
        return {self.metric.named("kid"): {"subsets": {"size": len(some[0]), "values": values}}}


class Kid(Compared[KidConfig]):
    """Mean and standard deviation of the MMD over random subsets, the ones that torch-fidelity draws."""

    tally = KernelDistance

    def measures(self) -> Sequence[Measure]:
        name = self.named("kid")
        usual = f"over subsets of {self.config.subset_size}; may be below 0 where sets are alike"
        return [
            Measure(name, name.upper(), "lower", digits=5, note=self.note(usual)),
            Measure(f"{name}-std", f"{name.upper()} ±", digits=5, note="over the subsets"),
        ]

    def refusal(self, count: int) -> str | None:
        if count >= self.config.subset_size:
            return None
        lacking = f"subsets of {self.config.subset_size:,} images cannot be drawn from {count:,}"
        return f"{lacking}; raise the suite's `count`, or lower the metric's `subset_size`"

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "kernel": "(x·y / d + 1)³", "estimate": "unbiased"}
