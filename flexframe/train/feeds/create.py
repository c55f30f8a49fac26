"""The feed that a run's config asks for."""

from __future__ import annotations

import torch

from flexframe.data.share import WHOLE, Share
from flexframe.data.tokenfile import TokenFile
from flexframe.store.load import load
from flexframe.store.places import preprocessing
from flexframe.train.feeds.base import Feed
from flexframe.train.feeds.codes import Stored, Tokenized, _check_file
from flexframe.train.feeds.images import Images
from flexframe_registry import TokenizerConfig, TrainConfig, catalogue
from flexframe_registry.runs import check_codes


def create_feed(config: TrainConfig, device: torch.device, share: Share = WHOLE) -> Feed:
    """A run's data, of which this process loads a share. `ConfigError` where they are no data for its model."""
    share.check(config.run.batch_size, config.run.accumulate)
    feed = _create(config, device)
    feed.share = share
    return feed


def _create(config: TrainConfig, device: torch.device) -> Feed:
    model, run = config.model, config.run
    if isinstance(model, TokenizerConfig) and run.latents is not None:
        from flexframe.train.feeds.latents import create

        return create(config, run.latents, device)
    if isinstance(model, TokenizerConfig):
        return Images(config, catalogue().build(run.data, model.image_size), device)
    if run.tokens is not None:
        file = TokenFile(run.tokens)
        _check_file(config, model, file)
        return Stored(config, file, device)
    assert model.tokenizer is not None  # as the config sees to
    tokenizer = load(model.tokenizer)
    check_codes(model, tokenizer.config, model.tokenizer)
    data = run.data.resized(preprocessing(model.tokenizer).resize)
    source = catalogue().build(data, tokenizer.config.image_size)
    return Tokenized(config, source, tokenizer, device)
