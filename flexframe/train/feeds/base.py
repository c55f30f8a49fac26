"""The contract of feeds: what a run trains on, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from flexframe.data.loader import steps
from flexframe.data.share import WHOLE, Share
from flexframe.tokens import Batch
from flexframe.train.trainee import Learner
from flexframe_registry import TrainConfig


class Feed(ABC):
    """A run's data: batches by step, the same ones whenever a step is entered."""

    share: Share = WHOLE
    """The rows of each batch that this process loads."""
    config: TrainConfig
    """The run's, with what the data say of the model filled in: the tokenizer's fingerprint, names of classes."""

    @abstractmethod
    def __len__(self) -> int:
        """Rows that are trained on."""

    @abstractmethod
    def batches(self, start: int) -> Iterator[Batch]:
        """Batches of steps `start` to the last: of each, this process's share."""

    def rows(self, step: int) -> list[int]:
        """Numbers of a step's rows, of all processes."""
        return next(steps(len(self), self.config.run, step))

    def held_out(self) -> Iterator[Batch]:
        """The rows that are not trained on."""
        return iter(())

    def remarks(self) -> Sequence[str]:
        """What the data's source has to say of them."""
        return ()

    def attach(self, trainee: Learner, check: bool) -> None:
        """Meet what is trained, its weights in place. With `check`, `ConfigError` where the data are none for it."""

    def examples(self, count: int) -> Batch | None:
        """The first rows, for a look at what a model makes of them; None where they are no images or latents."""
        return None
