"""Images, straight from a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from flexframe.data.held import hold
from flexframe.data.loader import batches
from flexframe.data.source import Source
from flexframe.tokens import Batch
from flexframe.train.feeds.base import Feed
from flexframe_registry import TrainConfig


class Images(Feed):
    """Images for a tokenizer."""

    def __init__(self, config: TrainConfig, source: Source, device: torch.device) -> None:
        self.config, self.source, self.device = config, source, device
        self.held = hold(source, device) if config.run.preload else None

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, start: int) -> Iterator[Batch]:
        return batches(self.source, self.config.run, start, self.device, share=self.share, held=self.held)

    def examples(self, count: int) -> Batch | None:
        samples = self.source.samples(range(min(count, len(self.source))))
        images = torch.stack([sample.image for sample in samples]).to(self.device).float() / 255
        return Batch(torch.arange(len(images), device=self.device), images)

    def remarks(self) -> Sequence[str]:
        return self.source.remarks()
