"""The watch over several processes: when a run stands still, it tells who is missing.

A collective that times out says that it did, and not whom it waited for. So every process tells the others by a thread
of its own how far it is, through the store that torchrun keeps; and one that has not moved for too long names those
that are furthest behind, and ends.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from contextlib import suppress
from datetime import timedelta
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import torch.distributed

from flexframe.train.distributed import Processes

DISTRIBUTED: Any = torch.distributed
"""Untyped: torch does not name its store among what it exports."""
STAGES = "waiting for data", "forward", "backward", "update", "logging and saving"
"""Stages of a step, in order."""
EXIT = 124
"""Exit code of a process that ends because another hangs, as `timeout` has it."""
BEAT = 10.0
"""Seconds between two signs of life; less where the timeout is short."""


class Watch:
    """Entered around training. With a single process it does nothing."""

    def __init__(self, processes: Processes, timeout: float) -> None:
        self.processes, self.timeout, self.beat = processes, timeout, min(BEAT, timeout / 4)
        self.place, self.since = (0, 0), time.monotonic()
        self.ended = threading.Event()
        self.store: Any = None

    def __enter__(self) -> Watch:
        if self.processes.size > 1:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            wait = timedelta(seconds=2 * BEAT)
            self.store = DISTRIBUTED.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=wait)
            self._tell(0)
            threading.Thread(target=self._look, daemon=True, name="flexframe watch").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()

    def at(self, step: int, stage: str) -> None:
        """Note what this process begins now."""
        self.place, self.since = (step, STAGES.index(stage)), time.monotonic()

    def _tell(self, beat: int) -> None:
        told = json.dumps({"place": self.place, "beat": beat})
        self.store.set(f"flexframe/watch/{self.processes.rank}", told)

    def _ask(self) -> list[dict[str, Any]]:
        keys = [f"flexframe/watch/{rank}" for rank in range(self.processes.size)]
        return [json.loads(value) for value in self.store.multi_get(keys)]

    def _look(self) -> None:
        beat = 0
        while not self.ended.wait(self.beat):
            beat += 1
            try:
                self._tell(beat)
                if time.monotonic() - self.since > self.timeout:
                    before = self._ask()
                    if self.ended.wait(1.5 * self.beat):
                        return
                    self._tell(beat + 1)
                    if time.monotonic() - self.since > self.timeout:
                        self._end(before, self._ask())
            except Exception as error:
                if time.monotonic() - self.since > self.timeout and not self.ended.is_set():
                    self._die(f"the store that torchrun keeps does not answer ({error}): its process or host is gone")

    def _end(self, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
        least = min(tuple(each["place"]) for each in now)
        behind = [rank for rank, each in enumerate(now) if tuple(each["place"]) == least]
        silent = [rank for rank in range(len(now)) if before[rank]["beat"] == now[rank]["beat"]]
        who = [rank for rank in behind if rank in silent] or behind
        names = ", ".join(self.processes.names[rank] + (", which is silent" if rank in silent else "") for rank in who)
        step, stage = least
        told = f"no progress for {self.timeout:g} s; waiting for {names}: at step {step}, {STAGES[stage]}"
        where = _stacks() if self.processes.rank in who else ""
        # what it waits for ends last: it may hold what the others talk by
        pause = 2 + 2 * self.beat * (self.processes.rank in who)
        self._die(
            f"{told}. The last checkpoint is whole; go on with --resume. run.timeout sets the limit", pause, where
        )

    def _die(self, told: str, pause: float = 2.0, before: str = "") -> None:
        own = self.processes.names[self.processes.rank]
        # written at once: the other processes tell theirs at about the same moment
        os.write(2, f"{before}flexframe: {own}: {told}\n".encode())
        time.sleep(pause)  # so that the others have told as well before torchrun ends them
        os._exit(EXIT)


def _stacks() -> str:
    """Stacks of this process's threads."""
    with suppress(OSError), TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
    return ""
