"""Images, straight from a source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from flexframe.data.captions import Captions
from flexframe.data.held import hold
from flexframe.data.loader import batches
from flexframe.data.source import Source
from flexframe.parts import Conditioner
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.feeds.base import Feed
from flexframe_registry import ConditionerConfig, ConfigError, TrainConfig, catalogue
from flexframe_registry.models import TokenizerConfig
from flexframe_standard.feeds.configs import ImagesFeedConfig


class Images(Feed[ImagesFeedConfig]):
    """Images for a tokenizer."""

    def __init__(self, config: ImagesFeedConfig, training: TrainConfig, device: torch.device) -> None:
        super().__init__(config, training, device)
        assert isinstance(training.model, TokenizerConfig)
        self.source: Source = catalogue().build(training.run.data, training.model.image_size, place="run.data")
        self.source.want("none")  # a tokenizer learns of images alone, unless its decoder reads texts
        self.captions: Captions | None = None
        texts, model = config.texts or training.model.conditioner, training.model
        if model.decoder.texts() is not None and texts is None:
            told = (
                f"decoder {model.decoder.type!r} reads texts, and nothing embeds any; name a frozen encoder of captions"
            )
            raise ConfigError.at("run.feed.texts", f"{told}, as {{type: minilm}}, or set model.decoder.text=null")
        if texts is not None:
            place = "model.conditioner" if config.texts is None else "run.feed.texts"
            self.texts: Conditioner = catalogue().build(texts, place=place)
            self.captions = Captions(self.source, remedy=f"leave {place} and model.decoder.text out")
            self.training = _described(training, texts, self.texts)
        self.transforms = [catalogue().build(each) for each in training.run.transforms]
        self.held = hold(self.source, device) if config.preload else None

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, start: int) -> Iterator[Batch]:
        found = batches(
            self.source, self.training.run, start, self.device, share=self.share, held=self.held,
            workers=self.config.workers, transforms=self.transforms,
        )  # fmt: skip
        for step, batch in enumerate(found, start):
            yield self._told(batch, step)

    def _told(self, batch: Batch, step: int = 0) -> Batch:
        """The batch with its captions embedded, where a decoder is to read them."""
        if self.captions is None:
            return batch
        asked = self.captions.of(batch.index, Rng(self.training.run.seed, batch.index, step))
        text = self.texts([each or "" for each in asked.texts or ()])
        given = {"embeddings": text.embeddings, "present": text.present, "pooled": text.pooled}
        own: dict[str, Any] = {name: None if each is None else each.to(self.device) for name, each in given.items()}
        return replace(batch, condition=replace(asked, **own))

    def examples(self, count: int) -> Batch | None:
        samples = self.source.samples(range(min(count, len(self.source))))
        images = torch.stack([sample.image for sample in samples]).to(self.device).float() / 255
        return self._told(Batch(torch.arange(len(images), device=self.device), images))

    def inventory(self) -> Mapping[str, Any]:
        return self.source.inventory()

    def remarks(self) -> Sequence[str]:
        return self.source.remarks()


def _described(training: TrainConfig, texts: ConditionerConfig, encoder: Conditioner) -> TrainConfig:
    """The config with the encoder of texts in its model, and what tells that one from others.

    Raises:
        ConfigError: the decoder cannot read what it gives, or the model names another.
    """
    model = training.model
    assert isinstance(model, TokenizerConfig)
    texts.check_reader(model.decoder)
    settled = encoder.settled()
    if model.conditioner not in (None, texts, settled):
        told = "is another than model.conditioner; leave one of the two out"
        raise ConfigError.at("run.feed.texts", told)
    return training.model_copy(update={"model": model.model_copy(update={"conditioner": settled})})
