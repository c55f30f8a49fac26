"""The Fréchet distance between features of torch-fidelity's Inception network: the FID, and its pipeline checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe.bench.protocol import Digest, settings
from flexframe.data.source import Source
from flexframe_registry import MetricConfig, SourceConfig, Spec, catalogue
from flexframe_standard.metrics.feature_files import Rows
from flexframe_standard.metrics.inception import HOW, WIDTHS, Features, Moments, shared

CHECK = "a check of the pipeline, not comparable to any published number"
"""What is said of distances in layers other than the last."""
BATCH = 64
PARTS, FEWEST, PARTS_SEED = 10, 3, 2020
"""Disjoint parts of the images over which distances are given apart, and the images that each has at least."""


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mu_a - mu_b|² + tr(sigma_a + sigma_b - 2 sqrt(sigma_a sigma_b)), by torch-fidelity."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(a.statistics(), b.statistics(), False)[KEY_METRIC_FID])


class Compared(Metric):
    """What metrics between the features of originals and of reconstructions have in common.

    Subclasses set what `refusal` needs before they call this constructor.
    """

    def __init__(self, config: MetricConfig, source: Source) -> None:
        super().__init__(config, source)
        self.layer: str = config.layer
        self.features = shared(source, config.weights)
        self.refused = self.refusal(len(source))
        if self.refused is None:
            self.features.want(self.layer, originals=self.paired)

    paired = True
    """Whether the suite's own images are what is compared with."""
    drawn = False
    """Whether samples of a prior are compared, and not reconstructions."""

    def of_samples(self) -> Metric:
        found = copy(self)
        found.drawn = True
        return found

    def refusal(self, count: int) -> str | None:
        """Why so few images give no meaningful number, and what to do, or None."""
        raise NotImplementedError(f"{type(self).__name__}.refusal")

    def named(self, name: str) -> str:
        """The name of a number, which says the layer if that is not the usual one."""
        return name if self.layer == "2048" else f"{name}@{self.layer}"

    def note(self, usual: str) -> str:
        return usual if self.layer == "2048" else CHECK

    def unavailable(self) -> str | None:
        if not self.finite:
            where = f"its features at layer {self.layer} are not finite numbers"
            return f"the weights {self.features.net.path} are incomplete: {where}; use a lower `layer` or whole weights"
        return self.refused or self.features.net.unavailable()

    def reset(self, spec: Spec) -> None:
        self.count, self.finite = 0, True
        self.device = torch.device("cpu")

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        self.device = batch.real.device
        if self.finite:
            if self.paired:  # first: the network remembers its last batch for the other metrics
                self.features.originals(self.count, batch.real, self.scratch)
                self.finite = self.features.finite[self.layer]
            found = self.features.net(batch.fake)[self.layer]
            self.finite = self.finite and bool(torch.isfinite(found).all())
            self.take(self.count, found)
        self.count += len(batch.real)
        return {}

    def take(self, at: int, features: Float[Tensor, "b d"]) -> None:
        """Take in the features of reconstructions `at` and after it."""
        raise NotImplementedError(f"{type(self).__name__}.take")

    def protocol(self) -> Mapping[str, Any]:
        facts = {
            **self.features.facts(self.layer, self.device),
            "reference": "the suite's images" if self.drawn else "the suite's own images, as the models saw them",
            "samples" if self.drawn else "reconstructions": "8-bit",
        }
        return facts if self.layer == "2048" else {**facts, "pipeline_check": CHECK}


class Stored(Compared):
    """Metrics that need features at the end: those of the reconstructions are kept on disk until then."""

    tallied = ("count", "finite")

    def take(self, at: int, features: Float[Tensor, "b d"]) -> None:
        self._fake().write(at, features.float())

    def _fake(self) -> Rows:
        return self.features.rows(self.scratch.own, self.layer, "reconstructions")

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of the originals, and of the reconstructions, mapped into memory; the former stay for later runs."""
        self.features.keep(self.layer, self.count)
        return self.features.reference(self.layer).read(self.count), self._fake().read(self.count)


def parts(count: int) -> Sequence[np.ndarray]:
    """The disjoint parts of so many images over which a distance is given apart: the same ones for all models, at
    random, for images may be sorted; none where they would hold fewer than `FEWEST` each."""
    if count < PARTS * FEWEST:
        return []
    return [np.sort(part) for part in np.array_split(np.random.RandomState(PARTS_SEED).permutation(count), PARTS)]


def part_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The Fréchet distance of two sets of features as large, however few they are.

    The trace of the covariances' root is the sum of the singular values of A Bᵀ / (n - 1), for centred A and B: exact
    where the covariances have no full rank, and short where the sets are small.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = x - x.mean(0), y - y.mean(0)
    least = len(x) - 1
    if len(x) <= x.shape[1]:
        root = np.linalg.svd(a @ b.T, compute_uv=False).sum() / least
    else:
        triangle = np.linalg.qr(b, mode="r")
        root = np.sqrt(np.linalg.eigvalsh(triangle @ (a.T @ a) @ triangle.T).clip(min=0)).sum() / least
    spreads = ((a**2).sum() + (b**2).sum()) / least
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spreads - 2 * root)


class Reference:
    """Images of another source, as what reconstructions are compared with: read once, when first asked for."""

    def __init__(self, config: SourceConfig, size: tuple[int, int]) -> None:
        self.config, self.source = config, catalogue().build(config, size)
        self._digest = Digest()
        self._moments: Moments | None = None

    def moments(self, features: Features, layer: str, device: torch.device) -> Moments:
        if self._moments is None:
            self._moments = Moments(WIDTHS[layer])
            for start in range(0, len(self.source), BATCH):
                some = self.source.samples(range(start, min(start + BATCH, len(self.source))))
                images = torch.stack([sample.image for sample in some])
                self._digest.add(images)
                self._moments.add(features.net(images.to(device))[layer])
        return self._moments

    def protocol(self) -> dict[str, Any]:
        images = {"count": len(self.source), "images": dict(self.source.protocol()), "sha256": self._digest.hex()}
        return {"data": settings(self.config), **images}


class Frechet(Stored):
    """The distance between images, the suite's own unless others are named, and the reconstructions."""

    def __init__(self, config: MetricConfig, source: Source) -> None:
        other = config.reference
        self.other = None if other is None else Reference(other.like(source.config), source.size)
        self.paired = self.other is None
        super().__init__(config, source)

    def measures(self) -> Sequence[Measure]:
        digits = 4 if self.layer == "64" else 2
        name, own = self.named("fid"), "against the suite's images" if self.drawn else "against these same images"
        label, what = f"{'g' * self.drawn}{name.upper()}", own if self.paired else "against other images"
        few = f"{what}; of {len(self.source):,} images, so it is too high; published ones are of 50,000"
        note = self.note(few if len(self.source) < 10_000 else what)
        return [Measure(name, label, "lower", digits=digits, note=note)]

    def refusal(self, count: int) -> str | None:
        # with no more images than features the covariance has no full rank (Heusel et al.'s own README asks for more)
        width, where = WIDTHS[self.layer], "suite"
        if self.other is not None and len(self.other.source) < count:
            count, where = len(self.other.source), "reference"
        if count > width or self.config.few:
            return None
        least = f"layer {width} needs more than {width:,} images, and there are {count:,}"
        absent = "" if self.features.net.on_disk() else f"; its weights are not here either ({HOW})"
        return f"{least}; raise the {where}'s `count`, use a lower `layer`, or set `few: true`{absent}"

    def compute(self) -> Mapping[str, float]:
        fake = Moments(WIDTHS[self.layer])
        for block in self._fake().blocks(self.count):
            fake.add(block)
        if self.other is not None:
            real = self.other.moments(self.features, self.layer, self.device)
        else:
            self.features.keep(self.layer, self.count)
            real = self.features.moments(self.layer, self.count)
        return {self.named("fid"): frechet_distance(real, fake)}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        some = parts(self.count)
        if not some or not self.paired:
            return {}
        real, fake = self.pair()
        values = [part_distance(fake[part], real[part]) for part in some]
        return {self.named("fid"): {"subsets": {"size": len(some[0]), "values": values}}}

    def protocol(self) -> Mapping[str, Any]:
        reference = {} if self.other is None else {"reference": self.other.protocol()}
        return {**super().protocol(), **reference, "covariance": "unbiased"}
