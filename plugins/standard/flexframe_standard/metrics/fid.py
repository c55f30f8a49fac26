"""The Fréchet distance between features of torch-fidelity's Inception network: the FID, and its pipeline checks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexframe.bench.metric import Measure
from flexframe.bench.protocol import Digest, settings
from flexframe.data.source import Source
from flexframe.store.weights import remedy
from flexframe_registry import Spec, catalogue
from flexframe_standard.metrics.features import REBUILT, Compared, Stored, Task, parts
from flexframe_standard.metrics.fid_config import FrechetConfig, StatisticsConfig
from flexframe_standard.metrics.inception import EXTRACTOR, SPATIAL, URL, WIDTHS, Features, Moments
from flexframe_standard.metrics.statistics import Statistics, read_statistics

BATCH = 64
NAMES = ("mu", "sigma"), ("mu_s", "sigma_s")
"""Names of mean and covariance in a file, as ADM has them: of the usual layers, and of sFID's."""
LOSSY = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".jp2"})
"""Suffixes of files that usually hold other pixels than were saved."""


def frechet_distance(a: Moments | Statistics, b: Moments | Statistics) -> float:
    """|mu_a - mu_b|² + tr(sigma_a + sigma_b - 2 sqrt(sigma_a sigma_b)), by torch-fidelity."""
    from torch_fidelity.metric_fid import (  # type: ignore[import-untyped]
        KEY_METRIC_FID,
        fid_statistics_to_metric,
    )

    return float(fid_statistics_to_metric(a.statistics(), b.statistics(), False)[KEY_METRIC_FID])


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
        triangle = np.asarray(np.linalg.qr(b, mode="r"))
        root = np.sqrt(np.linalg.eigvalsh(triangle @ (a.T @ a) @ triangle.T).clip(min=0)).sum() / least
    spreads = ((a**2).sum() + (b**2).sum()) / least
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + spreads - 2 * root)


class Reference:
    """Images as what reconstructions are compared with: read once, when first asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = len(source)
        self._digest, self._lossy = Digest(), Counter[str]()
        self._moments: Moments | None = None
        self._rows: np.ndarray | None = None

    def moments(self, features: Features, layer: str, device: torch.device) -> Moments:
        """Moments of a layer's features of all images."""
        if self._moments is None:
            self._moments = Moments(features.net.width(layer))
            for rows in self._read(features, layer, device):
                self._moments.add(rows)
        return self._moments

    def rows(self, features: Features, layer: str, device: torch.device) -> np.ndarray:
        """A layer's features of all images, held in memory."""
        if self._rows is None:
            self._rows = torch.cat([rows.float().cpu() for rows in self._read(features, layer, device)]).numpy()
        return self._rows

    def _read(self, features: Features, layer: str, device: torch.device) -> Iterator[Tensor]:
        for start in range(0, len(self.source), BATCH):
            some = self.source.samples(range(start, min(start + BATCH, len(self.source))))
            images = torch.stack([sample.image for sample in some])
            self._digest.add(images)
            self._lossy.update(suffix for each in some if (suffix := PurePath(each.id).suffix.lower()) in LOSSY)
            yield features.net(images.to(device))[layer]

    def protocol(self) -> dict[str, Any]:
        """The source, and the hash of its images once they were read; how many were of files with JPEG's losses."""
        images = {"count": len(self.source), "images": dict(self.source.protocol()), "sha256": self._digest.hex()}
        lossy = {"lossy_files": dict(sorted(self._lossy.items()))} if self._lossy else {}
        return {"data": settings(self.source.config), **images, **lossy}


class Published:
    """Statistics of a file, as what images are compared with."""

    def __init__(self, config: StatisticsConfig, layer: str) -> None:
        names = NAMES[layer == SPATIAL]
        self.held = read_statistics(config.statistics, WIDTHS[layer], EXTRACTOR, config.count, names)
        self.place = config.statistics
        self.count: int | None = self.held.told["count"]

    def moments(self, features: Features, layer: str, device: torch.device) -> Statistics:
        """The statistics, whatever the network is."""
        return self.held

    def protocol(self) -> dict[str, Any]:
        """The hash of the file, and what is known of it."""
        return {"statistics": dict(self.held.told)}

    def unfit(self, sha256: str | None) -> str | None:
        """The reason why it does not fit features by weights of this hash, or None."""
        own = self.held.told.get("weights_sha256")
        if own is None or sha256 is None or own == sha256:
            return None
        told = f"{self.place} is of features by other weights ({str(own)[:12]}) than these ({sha256[:12]})"
        return f"{told}; write it anew by `flexframe stats`, or name those weights"


def _other(config: FrechetConfig, source: Source) -> Reference | Published | None:
    """What a suite's images are compared with, if not with each other."""
    if config.reference is None:
        return None
    if isinstance(config.reference, StatisticsConfig):
        return Published(config.reference, config.layer)
    data = config.reference.like(source.config)
    return Reference(catalogue().build(data, source.size, place="reference"))


@dataclass
class Distance(Stored[Any]):
    """Features of what a model made, and their distance at the end: to the metric's `other` images, if it has any."""

    def compute(self) -> Mapping[str, float]:
        metric, features, layer = self.metric, self.metric.features, self.metric.layer
        fake = Moments(features.net.width(layer))
        for block in self.fake().blocks(self.count):
            fake.add(block)
        real: Moments | Statistics
        if metric.other is not None:
            real = metric.other.moments(features, layer, features.net.device)
        else:
            features.keep(layer, self.count)
            real = features.moments(layer, self.count)
        return {metric.named("fid"): frechet_distance(real, fake)}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        some = parts(self.count)
        if not some or not self.metric.paired:
            return {}
        real, fake = self.pair()
        values = [part_distance(fake[part], real[part]) for part in some]
        return {self.metric.named("fid"): {"subsets": {"size": len(some[0]), "values": values}}}


class Frechet(Compared[FrechetConfig]):
    """The distance between images, the suite's own unless others are named, and the reconstructions."""

    tally = Distance

    def __init__(self, config: FrechetConfig, source: Source, task: Task = REBUILT) -> None:
        self.other = _other(config, source)
        self.paired = self.other is None
        super().__init__(config, source, task)

    def measures(self) -> Sequence[Measure]:
        digits, name = 4 if self.layer == "64" else 2, self.named("fid")
        label = "sFID" if self.layer == SPATIAL else name.upper()
        what = self.task.own if self.paired else "against other images"
        few = f"{what}; of {len(self.source):,} images, so it is too high; published ones are of 50,000"
        note = self.note(few if len(self.source) < 10_000 else what)
        return [Measure(name, f"{self.task.prefix}{label}", "lower", digits=digits, note=note)]

    def unavailable(self, spec: Spec) -> str | None:
        why = super().unavailable(spec)
        if why is None and isinstance(self.other, Published):
            return self.other.unfit(self.features.net.sha256)
        return why

    def statistics(self, device: torch.device) -> dict[str, Any]:
        if (why := self.features.net.unavailable()) is not None:
            raise ValueError(why)
        images = Reference(self.source)
        found = images.moments(self.features, self.layer, device).statistics()
        facts = {**self.features.facts(self.layer), **images.protocol(), "image_size": list(self.source.size)}
        own = {name: facts.pop(name) for name in ("count", "extractor")}
        mean, spread = NAMES[self.layer == SPATIAL]
        return {mean: found["mu"], spread: found["sigma"], **own, f"facts_{mean}": json.dumps(facts, sort_keys=True)}

    def named(self, name: str) -> str:
        return f"s{name}" if self.layer == SPATIAL else super().named(name)

    def refusal(self, count: int) -> str | None:
        # with no more images than features the covariance has no full rank (Heusel et al.'s own README asks for more)
        width, where = WIDTHS[self.layer], "suite"
        if self.other is not None and self.other.count is not None and self.other.count < count:
            count, where = self.other.count, "reference"
        if count > width or self.config.few:
            return None
        least = f"layer {width} needs more than {width:,} images, and there are {count:,}"
        absent = "" if self.features.net.on_disk() else f"; its weights are not here either ({remedy(URL, 'weights')})"
        return f"{least}; raise the {where}'s `count`, use a lower `layer`, or set `few: true`{absent}"

    def protocol(self) -> Mapping[str, Any]:
        reference = {} if self.other is None else {"reference": self.other.protocol()}
        return {**super().protocol(), **reference, "covariance": "unbiased"}
