"""The watch over a run: when it stands still, it is ended, and the watch tells where; of several processes, who is
missing.

A collective that times out says that it did, and not whom it waited for. So every process tells the others by a thread
of its own how far it is, through the store that torchrun keeps; and one that has not moved for too long names those
that are furthest behind, and ends.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from tempfile import TemporaryFile
from types import FrameType, TracebackType
from typing import Any

import torch.distributed

from flexframe.data.workers import end_all
from flexframe.train.distributed import Processes

DISTRIBUTED: Any = torch.distributed
"""Untyped: torch does not name its store among what it exports."""
STAGES = "waiting for data", "forward", "backward", "update", "logging and saving"
"""Stages of a step, in order."""
EXIT = 124
"""Exit code of a process that ends because another hangs, as `timeout` has it."""
REMEDY = "The last checkpoint is whole; go on with --resume. run.timeout sets the limit"
STIR = signal.SIGURG
"""The signal that stirs a thread; nobody else uses it, and where nobody hears it, it does nothing."""
MAIN: Any = threading.main_thread().ident
GRACE = 2.0
"""Seconds that a process has to end by itself."""
BEAT = 10.0
"""Seconds between two signs of life; less where the timeout is short."""


class Watch:
    """Entered around training.

    Args:
        timeout: seconds without progress after which the process ends.
        ending: told why, before it does.
    """

    def __init__(self, processes: Processes, timeout: float, ending: Callable[[str], None] = lambda why: None) -> None:
        self.processes, self.timeout, self.beat = processes, timeout, min(BEAT, timeout / 4)
        self.ending = ending
        self.place, self.since = (0, 0), time.monotonic()
        self.ended = threading.Event()
        self.store: Any = None
        self.before: Any = None
        """Of a single process, who heard its alarm before."""

    def __enter__(self) -> Watch:
        if self.processes.size > 1:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            wait = timedelta(seconds=2 * BEAT)
            self.store = DISTRIBUTED.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=wait)
            self._tell(0)
            threading.Thread(target=self._look, daemon=True, name="flexframe watch").start()
        elif threading.current_thread() is threading.main_thread():  # elsewhere nothing can be raised from outside
            self.before = signal.signal(STIR, self._raise)
            threading.Thread(target=self._look_alone, daemon=True, name="flexframe watch").start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()
        if self.before is not None:
            signal.signal(STIR, self.before)

    def at(self, step: int, stage: str) -> None:
        """Note what this process begins now."""
        self.place, self.since = (step, STAGES.index(stage)), time.monotonic()

    def _tell(self, beat: int) -> None:
        told = json.dumps({"place": self.place, "beat": beat})
        self.store.set(f"flexframe/watch/{self.processes.rank}", told)

    def _ask(self) -> list[dict[str, Any]]:
        keys = [f"flexframe/watch/{rank}" for rank in range(self.processes.size)]
        return [json.loads(value) for value in self.store.multi_get(keys)]

    def _look_alone(self) -> None:
        """Raise in the main thread when it stands still; end the process where that stirs nothing."""
        last = time.monotonic()
        while not self.ended.wait(self.beat):
            now, since = time.monotonic(), self.since
            if now - last > 2 * self.beat + 1:  # this process stood still itself: stopped by Ctrl-Z, or asleep
                self.since = now
            elif now - since > self.timeout:
                signal.pthread_kill(MAIN, STIR)
                if not self.ended.wait(GRACE) and self.since == since:
                    self._die(self._stands(), 0)
            last = time.monotonic()

    def _stands(self) -> str:
        step, stage = self.place
        return f"no progress for {self.timeout:g} s: at step {step}, {STAGES[stage]}. {REMEDY}"

    def _raise(self, number: int, frame: FrameType | None) -> None:
        raise TimeoutError(self._stands())

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
        self._die(f"{told}. {REMEDY}", pause, where)

    def _die(self, told: str, pause: float = 2.0, before: str = "") -> None:
        own = f"{self.processes.names[self.processes.rank]}: " if self.processes.size > 1 else ""
        # written at once: the other processes tell theirs at about the same moment
        os.write(2, f"{before}flexframe: {own}{told}\n".encode())
        end_all()
        ending = threading.Thread(target=self.ending, args=[told], daemon=True)
        ending.start()
        ending.join(2.0)  # it writes, and what does not answer may be the disk
        time.sleep(pause)  # so that the others have told as well before torchrun ends them
        os._exit(EXIT)


def _stacks() -> str:
    """Stacks of this process's threads."""
    with suppress(OSError), TemporaryFile() as file:
        faulthandler.dump_traceback(file=file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
    return ""
