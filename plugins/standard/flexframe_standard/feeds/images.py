"""Images, straight from a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from flexframe.data.held import hold
from flexframe.data.loader import batches
from flexframe.data.source import Source
from flexframe.tokens import Batch
from flexframe.train.feeds.base import Feed
from flexframe_registry import TrainConfig, catalogue
from flexframe_registry.models import TokenizerConfig
from flexframe_standard.feeds.configs import ImagesFeedConfig


class Images(Feed[ImagesFeedConfig]):
    """Images for a tokenizer."""

    def __init__(self, config: ImagesFeedConfig, training: TrainConfig, device: torch.device) -> None:
        super().__init__(config, training, device)
        assert isinstance(training.model, TokenizerConfig)
        self.source: Source = catalogue().build(training.run.data, training.model.image_size, place="run.data")
        self.source.want("none")  # a tokenizer learns of images alone
        self.transforms = [catalogue().build(each) for each in training.run.transforms]
        self.held = hold(self.source, device) if config.preload else None

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, start: int) -> Iterator[Batch]:
        return batches(
            self.source, self.training.run, start, self.device, share=self.share, held=self.held,
            workers=self.config.workers, transforms=self.transforms,
        )  # fmt: skip

    def examples(self, count: int) -> Batch | None:
        samples = self.source.samples(range(min(count, len(self.source))))
        images = torch.stack([sample.image for sample in samples]).to(self.device).float() / 255
        return Batch(torch.arange(len(images), device=self.device), images)

    def inventory(self) -> Mapping[str, Any]:
        return self.source.inventory()

    def remarks(self) -> Sequence[str]:
        return self.source.remarks()
