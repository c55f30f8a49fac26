"""What an image costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe_registry import Spec


class Bits(Metric):
    """Tokens that are present, times the bits of one: the mean over images, whose lengths may differ."""

    tallied = ("total", "count")

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("bits", "Bits an image", "lower", digits=1, note="tokens present x log2 of the codes of one"),
            Measure("length", "Tokens an image", "lower", digits=1),
        ]

    def of_samples(self) -> Metric:
        return self

    def reset(self, spec: Spec) -> None:
        size = spec.tokens.codebook_size
        self.each = None if size is None else spec.tokens.codebooks * log2(size)
        self.total, self.count = 0.0, 0

    def unavailable(self) -> str | None:
        return "the tokens are continuous, so they have no count of bits" if self.each is None else None

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        assert self.each is not None
        lengths = batch.tokens.lengths.double()
        self.total += float(lengths.sum())
        self.count += len(lengths)
        return {"bits": lengths * self.each, "length": lengths}

    def compute(self) -> Mapping[str, float]:
        assert self.each is not None
        return {"bits": self.total * self.each / self.count, "length": self.total / self.count}
