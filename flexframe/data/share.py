"""The rows of a step's batch that a process loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexframe_registry import ConfigError


@dataclass(frozen=True, slots=True)
class Share:
    """One process's slice of every accumulated part of a batch.

    Part i of all processes together is part i of a single process, so that what is computed of a part as a whole (a
    codebook of running means) is the same, however many processes there are.
    """

    rank: int = 0
    size: int = 1

    def check(self, batch_size: int, accumulate: int) -> None:
        """Raise `ConfigError` unless a batch of so many rows, in so many parts, splits evenly."""
        if batch_size % (accumulate * self.size):
            text = f"{batch_size} does not split into {accumulate} parts on each of {self.size} processes"
            raise ConfigError.at("run.batch_size", f"{text}; take a multiple of {accumulate * self.size}")

    def of(self, rows: Sequence[int], accumulate: int) -> list[int]:
        """This process's rows of a batch, its parts one after the other."""
        part = len(rows) // accumulate
        own = part // self.size
        return [row for start in range(self.rank * own, len(rows), part) for row in rows[start : start + own]]


WHOLE = Share()
"""All rows: a single process's."""
