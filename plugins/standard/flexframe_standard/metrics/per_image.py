"""Base of the metrics that are a mean over images of one value each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe_standard.metrics.per_image_config import PerImageConfig

PerImageC = TypeVar("PerImageC", bound=PerImageConfig, default=PerImageConfig)


@dataclass
class Mean(Tally["PerImage[Any]"]):
    """The sum of images' values, and how many there were."""

    total: float = 0.0
    count: int = 0

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        fake = batch.fake.float() if self.metric.config.rounded else batch.exact.float() * 255
        values = self.metric.values(batch.real.float(), fake)
        self.total += float(values.double().sum())
        self.count += len(values)
        return {self.metric.measure.name: values}

    def compute(self) -> Mapping[str, float]:
        return {self.metric.measure.name: self.total / self.count}


class PerImage(Metric[PerImageC]):
    """A mean over images of one value each."""

    measure: Measure
    tally = Mean

    def measures(self) -> Sequence[Measure]:
        return [self.measure]

    @abstractmethod
    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """One value for each image; both are in 8-bit steps, 0 to 255."""

    def protocol(self) -> Mapping[str, Any]:
        rounded = "8-bit" if self.config.rounded else "not rounded"
        return {"mean": "of per-image values", "reconstructions": rounded}
