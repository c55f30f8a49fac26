"""A stop that is asked for: SIGTERM (a scheduler's) or SIGINT (Ctrl-C) ends a run after a step, on all processes after
the same one."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from flexframe.train.distributed import Processes

SIGNALS = signal.SIGTERM, signal.SIGINT


class Stopping:
    """Notes signals while it is entered. A second Ctrl-C acts as it would have without this; but with several processes
    the same signal comes more than once, from the terminal or the scheduler and from torchrun, and changes nothing."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.signal = 0
        self.before: dict[int, Any] = {}
        self.work: Any = None
        self.flag = torch.zeros(1, dtype=torch.long)

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()
        if kind is None and self.work is not None:
            self.work.wait()

    def asked(self) -> str | None:
        """The signal's name, once one has come to any process; asked by all of them after every step.

        What is sent after a step is read after the next, so nobody waits for an answer.
        """
        if self.processes.size == 1:
            return signal.Signals(self.signal).name if self.signal else None
        come = 0
        if self.work is not None:
            self.work.wait()
            come = int(self.flag)
        self.flag = torch.tensor([self.signal])
        self.work = None if come else dist.all_reduce(self.flag, dist.ReduceOp.MAX, async_op=True)
        return signal.Signals(come).name if come else None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if number == signal.SIGINT and self.processes.size == 1:
            signal.signal(number, self.before[number])

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
