"""The Fréchet distance between features of torch-fidelity's Inception network: the FID, and its pipeline checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.builtin.features import HOW, WIDTHS, Moments, shared
from flexframe.contracts import Measure, Metric, Reconstructions, Source
from flexframe_registry import MetricConfig, Spec

CHECK = "a check of the pipeline, not comparable to any published number"
"""What is said of distances in layers other than the last."""


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
            self.features.want(self.layer)

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
            self.features.originals(self.count, batch.real, self.scratch)
            found = self.features.net(batch.fake)[self.layer]
            self.finite = self.features.finite[self.layer] and bool(torch.isfinite(found).all())
            self.take(self.count, found)
        self.count += len(batch.real)
        return {}

    def take(self, at: int, features: Float[Tensor, "b d"]) -> None:
        """Take in the features of reconstructions `at` and after it."""
        raise NotImplementedError(f"{type(self).__name__}.take")

    def protocol(self) -> Mapping[str, Any]:
        facts = {
            **self.features.facts(self.layer, self.device),
            "reference": "the suite's own images, as the models saw them",
            "reconstructions": "8-bit",
        }
        return facts if self.layer == "2048" else {**facts, "pipeline_check": CHECK}


class Frechet(Compared):
    """The distance between the images of a suite and their reconstructions."""

    tallied = ("count", "finite")

    def measures(self) -> Sequence[Measure]:
        digits = 4 if self.layer == "64" else 2
        name = self.named("fid")
        few = f"of {len(self.source):,} images, so it is too high; published ones are of 50,000"
        note = self.note(
            f"against these same images; {few}" if len(self.source) < 10_000 else "against these same images"
        )
        return [Measure(name, name.upper(), "lower", digits=digits, note=note)]

    def refusal(self, count: int) -> str | None:
        # with no more images than features the covariance has no full rank (Heusel et al.'s own README asks for more)
        width = WIDTHS[self.layer]
        if count > width or self.config.few:
            return None
        least = f"layer {width} needs more than {width:,} images, and there are {count:,}"
        absent = "" if self.features.net.on_disk() else f"; its weights are not here either ({HOW})"
        return f"{least}; raise the suite's `count`, use a lower `layer`, or set `few: true`{absent}"

    def reset(self, spec: Spec) -> None:
        super().reset(spec)
        self.fake = Moments(WIDTHS[self.layer])

    def state(self) -> Mapping[str, Any]:
        return {**super().state(), "moments": vars(self.fake)}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        vars(self.fake).update(state["moments"])

    def take(self, at: int, features: Float[Tensor, "b d"]) -> None:
        self.fake.add(features)

    def compute(self) -> Mapping[str, float]:
        self.features.keep(self.layer, self.count)
        real = self.features.moments(self.layer, self.count)
        return {self.named("fid"): frechet_distance(real, self.fake)}

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), "covariance": "unbiased"}
