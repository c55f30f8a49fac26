"""The feed that a run's config asks for."""

from __future__ import annotations

from typing import Any

import torch

from flexframe.data.share import WHOLE, Share
from flexframe.train.feeds.base import Feed
from flexframe_registry import TrainConfig, catalogue


def create_feed(config: TrainConfig, device: torch.device, share: Share = WHOLE) -> Feed[Any]:
    """Build a run's data, of which this process loads a share.

    Raises:
        ConfigError: they are no data for its model.
    """
    share.check(config.run.batch_size, config.run.accumulate)
    feed: Feed[Any] = catalogue().build(config.run.feed, config, device)
    feed.share = share
    return feed
