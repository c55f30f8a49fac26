"""Samples that are there already, in files of this or another project: measured as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from flexframe.bench import protocol
from flexframe.bench.lanes import Entrant, Made, Some
from flexframe.data.source import Source
from flexframe.tokens import Tokens
from flexframe_registry import LatentSpec, Spec, SuiteConfig, TokenSpec

UNTOLD = 0
"""The token count of images whose own is not known."""
BATCH = 256


@dataclass
class Given(Entrant):
    """Samples that are there already; `weights` is their hash."""

    source: Source

    @property
    def config(self) -> None:
        return None

    @property
    def spec(self) -> Spec:
        return Spec(LatentSpec(3, *self.source.size), 1, TokenSpec(1, 1))

    @property
    def bits(self) -> None:
        return None

    def unasked(self, source: Source) -> str | None:
        if self.source[0].label is None:
            return "these samples come without the classes that were asked for"
        return None

    def tokenless(self) -> str:
        return "these samples come without their tokens"

    def make(self, some: Some) -> Iterator[Made]:
        count, device = len(some.index), some.real.device
        with self.watch.running(count, device):
            samples = self.source.samples(some.index)
            images = torch.stack([sample.image for sample in samples]).to(device)
        none = torch.zeros(count, 0, 1, device=device)
        tokens = Tokens(none, none[..., 0].bool(), none.long())
        for lane in self.lanes:
            yield Made(lane, images, tokens, [sample.label for sample in samples])

    def used(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        return {"samples": "as they were given", "images": dict(self.source.protocol())}

    def identity(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        return {"config": None, "fingerprint": self.weights, "sampling": {}}

    def entry(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        known: dict[str, Any] = {"trained": {}, "parameters": {}, "length": None, "bits_per_token": None}
        speed = {"read_images_per_second": round(self.watch.rate(), 2)}
        return {"id": self.name, **self.identity(suite, device), **known, "count": len(self.source), "speed": speed}


def pixels(source: Source) -> str:
    """A hash of all images of a source."""
    digest = protocol.Digest()
    for start in range(0, len(source), BATCH):
        some = source.samples(range(start, min(start + BATCH, len(source))))
        digest.add(torch.stack([sample.image for sample in some]))
    return digest.hex()
