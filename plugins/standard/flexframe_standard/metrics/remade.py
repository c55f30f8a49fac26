"""Metrics for which a model works on once more: images encoded again and again, tokens decoded by other seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure, Metric, Reconstructions, Tally
from flexframe.bench.protocol import to_uint8
from flexframe_standard.metrics.remade_config import ReEncodingConfig, SeedSpreadConfig

CAP = 100.0
"""The most dB that one image counts for."""


def psnr(real: Tensor, fake: Tensor) -> Float[Tensor, " b"]:
    """PSNR of each image, `b 3 h w` in 8-bit steps, rounded or not."""
    mse = (real.double() - fake.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255.0**2 / mse)).clamp(max=CAP)


@dataclass
class Rounds(Tally["ReEncoding"]):
    """Tokens that stayed, all tokens, and the PSNR of each round, over the images so far."""

    count: int = 0
    stayed: int = 0
    tokens: int = 0
    whole: int = 0
    last: float = 0.0

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        assert batch.remake is not None, "samples were refused before"
        seen, found = batch.fake, dict[str, Tensor]()
        for number in range(self.metric.config.rounds - 1):
            again = batch.remake.encode(seen.float() / 255)
            if number == 0 and not again.codes.is_floating_point():
                same, keep = (again.codes == batch.tokens.codes).all(-1), batch.tokens.keep
                kept, lengths = (same & keep).sum(1), keep.sum(1)
                self.stayed, self.tokens = self.stayed + int(kept.sum()), self.tokens + int(lengths.sum())
                found["ids_kept"] = 100.0 * kept / lengths
            seen = to_uint8(batch.remake.decode(again))
        values = psnr(batch.real, seen)
        self.last, self.count = self.last + float(values.sum()), self.count + len(values)
        return {**found, "psnr_again": values}

    def compute(self) -> Mapping[str, float]:
        share = 100 * self.stayed / self.tokens if self.tokens else nan
        return {"ids_kept": share, "psnr_again": self.last / self.count}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        return {} if self.tokens else {"ids_kept": {"why": "the tokens are continuous, so that they have no ids"}}


class ReEncoding(Metric[ReEncodingConfig]):
    """Measures of reconstructions that are encoded again, rounded to 8 bits in between as files are."""

    tally = Rounds

    def measures(self) -> Sequence[Measure]:
        rounds = self.config.rounds
        return [
            Measure("ids_kept", "Ids kept", "higher", "%", 1, "of all tokens, when a reconstruction is encoded again"),
            Measure("psnr_again", f"PSNR after {rounds} rounds", "higher", "dB", note="of encoding and decoding"),
        ]

    def protocol(self) -> Mapping[str, Any]:
        told = {"rounds": self.config.rounds, "between_rounds": "rounded to 8 bits", "cap_db": CAP}
        return {**told, "draws": "each round as the first: by the run's seed and the image's number"}


@dataclass
class Spread(Tally["SeedSpread"]):
    """Spreads of each image over the seeds, summed over images."""

    count: int = 0
    decibels: float = 0.0
    steps: float = 0.0

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        assert batch.remake is not None, "samples were refused before"
        others = [batch.remake.decode(batch.tokens, draw) for draw in range(1, self.metric.config.seeds)]
        made = torch.stack([batch.exact.double(), *(each.double() for each in others)]) * 255
        values = torch.stack([psnr(batch.real, each) for each in made])
        decibels, steps = values.std(0), made.var(0).flatten(1).mean(1).sqrt()
        self.count += len(batch.real)
        self.decibels, self.steps = self.decibels + float(decibels.sum()), self.steps + float(steps.sum())
        return {"psnr_spread": decibels, "pixel_spread": steps}

    def compute(self) -> Mapping[str, float]:
        return {"psnr_spread": self.decibels / self.count, "pixel_spread": self.steps / self.count}


class SeedSpread(Metric[SeedSpreadConfig]):
    """The standard deviation over the decoder's seeds, of each image; 0 where a decoder does not draw."""

    tally = Spread

    def measures(self) -> Sequence[Measure]:
        return [
            Measure("psnr_spread", "PSNR, spread of seeds", unit="dB", note="of one image, mean over images"),
            Measure("pixel_spread", "Pixels, spread of seeds", note="of 255, of one image, mean over images"),
        ]

    def protocol(self) -> Mapping[str, Any]:
        return {"seeds": self.config.seeds, "spread": "unbiased standard deviation", "reconstructions": "not rounded"}
