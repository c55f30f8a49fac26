"""The cost of an image: its tokens, and their bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2

from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe_registry import Spec
from flexframe_standard.metrics.bits_config import BitsConfig


@dataclass
class Lengths(Tally["Bits"]):
    """The tokens of all images, and how many images there were."""

    total: float = 0.0
    count: int = 0

    @property
    def each(self) -> float:
        """Bits of one token."""
        size = self.spec.tokens.codebook_size
        assert size is not None, "continuous tokens were refused before"
        return self.spec.tokens.codebooks * log2(size)

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        lengths = batch.tokens.lengths.double()
        self.total += float(lengths.sum())
        self.count += len(lengths)
        return {"bits": lengths * self.each, "length": lengths}

    def compute(self) -> Mapping[str, float]:
        return {"bits": self.total * self.each / self.count, "length": self.total / self.count}


class Bits(Metric[BitsConfig]):
    """Tokens that are present, times the bits of one: the mean over images, whose lengths may differ."""

    of_tokens = True
    tally = Lengths

    def of_samples(self) -> Bits:
        return self

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("bits", "Bits an image", "lower", digits=1, note="tokens present x log2 of the codes of one"),
            Measure("length", "Tokens an image", "lower", digits=1),
        ]

    def unavailable(self, spec: Spec) -> str | None:
        return "the tokens are continuous, so they have no count of bits" if spec.tokens.codebook_size is None else None
