"""The contract of feeds: what a run trains on, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

import torch
from typing_extensions import TypeVar

from flexframe.data.loader import steps
from flexframe.data.share import WHOLE, Share
from flexframe.tokens import Batch
from flexframe.train.trainee import Learner
from flexframe_registry import FeedConfig, TrainConfig

FeedC = TypeVar("FeedC", bound=FeedConfig, default=FeedConfig)


class Feed(ABC, Generic[FeedC]):
    """A run's data: batches by step, the same ones whenever a step is entered.

    Built as `(config, training, device)`; `ConfigError` where there are no such data, or none for the model.
    """

    share: Share = WHOLE
    """The rows of each batch that this process loads."""

    def __init__(self, config: FeedC, training: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.training = training
        """The run's config; a feed fills in what its data say of the model: a tokenizer's fingerprint, class names."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows that are trained on."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """Batches of steps `start` to the last: of each, this process's share."""

    def rows(self, step: int) -> list[int]:
        """Numbers of a step's rows, of all processes."""
        return next(steps(len(self), self.training.run, step))

    def held_out(self) -> Iterator[Batch]:
        """The rows that are not trained on."""
        return iter(())

    def inventory(self) -> Mapping[str, Any]:
        """The inventory of what is trained on (`flexframe.data.inventory`): a run goes on with the same only."""
        return {"count": len(self)}

    def outdated(self) -> Sequence[str]:
        """Sentences on what a feed of stored data was made of and is another by now."""
        return ()

    def remarks(self) -> Sequence[str]:
        """Sentences that the data's source has to say of them."""
        return ()

    def attach(self, trainee: Learner, check: bool) -> None:
        """Meet what is trained, its weights in place. With `check`, `ConfigError` where the data are none for it."""

    def examples(self, count: int) -> Batch | None:
        """The first rows, for a look at what a model makes of them; None where they are no images or latents."""
        return None
