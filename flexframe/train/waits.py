"""Time that training stood still for its data, measured without making it wait for the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")
EVENT: Any = torch.cuda.Event
"""Untyped by torch."""


class Waits:
    """Passes batches on, and measures the time between asking for one and going on with it.

    On a GPU by the device's own clock: what counts is how long it had nothing to do but to take in the batch, and not
    that the host, which runs ahead, waited meanwhile. Its marks are read when a log line has waited for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds = 0.0
        self.marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass batches on, and measure the waiting for each."""
        waiting = iter(batches)
        while True:
            since, before = time.perf_counter(), self._mark()
            try:
                batch = next(waiting)
            except StopIteration:
                return
            after = self._mark()
            if before is not None and after is not None:
                self.marks.append((before, after))
            else:
                self.seconds += time.perf_counter() - since
            yield batch

    def take(self) -> float:
        """Seconds of the steps since the last call, all of which the device has done."""
        device = sum(float(before.elapsed_time(after)) for before, after in self.marks) / 1000
        seconds, self.seconds, self.marks = self.seconds + device, 0.0, []
        return seconds

    def _mark(self) -> torch.cuda.Event | None:
        if not self.cuda:
            return None
        event: torch.cuda.Event = EVENT(enable_timing=True)
        event.record()
        return event
