"""Rows that other processes read: what they meet and remark comes here, and nobody waits for one that is gone."""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

Read = Callable[[list[int]], tuple[Tensor, ...]]
LOST = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([\w :]+)")
"""Torch's words for it."""
SHARE: Any = Tensor.share_memory_
"""Untyped by torch."""
Notes = dict[int, str]
"""Remarks by number of an image, as a source keeps them."""
Sent = tuple[tuple[Tensor, ...] | None, Notes, BaseException | None]
"""What a process sends: tensors or an error, and the remarks that were made on the way."""


class _Rows(Dataset[Sent]):
    """What a process does: reads rows, and sends what it meets as a value, for torch would send a page of text."""

    def __init__(self, read: Read, notes: Notes) -> None:
        self.read, self.notes, self.told = read, notes, set[int]()

    def __getitem__(self, rows: list[int]) -> Sent:
        try:
            tensors = self.read(rows)
            if get_worker_info() is not None:
                for each in tensors:
                    SHARE(each)  # else on its way, where nobody hears that there is no room
        except BaseException as error:  # a plugin's sys.exit would end this process without a word
            return None, {}, _portable(error)
        new = {number: text for number, text in self.notes.items() if number not in self.told}
        self.told |= new.keys()
        return tensors, new, None


def loaded(
    read: Read, steps: Iterable[list[int]], workers: int, pin: bool, notes: Notes | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Yield what `read` gives for each step's rows, in order; by so many other processes, or by this one where it is 0.

    Args:
        pin: put the tensors in pinned memory.
        notes: remarks that reading adds to; those of other processes are added to them here.

    Raises:
        ChildProcessError: a process was killed.
        Exception: whatever `read` raised, as if it had been called here.
    """
    notes = {} if notes is None else notes
    if not workers:
        for rows in steps:
            tensors = read(rows)
            yield tuple(each.pin_memory() for each in tensors) if pin else tensors
        return
    before = multiprocessing.active_children()
    found = [_started(_Rows(read, notes), steps, workers, pin)]
    end = partial(_end, found, [each for each in multiprocessing.active_children() if each not in before])
    atexit.register(end)  # before Python's own end, which would wait for them
    try:
        while True:
            gone = got = None
            try:
                got = next(found[0], None)
            except RuntimeError as error:
                gone = killed(error) or error
            if gone is not None:
                raise gone
            if got is None:
                return
            tensors, new, raised = got
            notes.update(new)
            if raised is not None:
                raise raised
            yield tuple(tensors)
    finally:
        atexit.unregister(end)
        end()


def killed(error: BaseException) -> ChildProcessError | None:
    """The error that torch raises, wherever this process then is, when one that reads for it is gone; in a line that
    says what to do. None for other errors."""
    if not isinstance(error, RuntimeError):
        return None
    lines = [str(each) for each in (error.__cause__, error)]  # the cause, where there is one, knows the signal
    told = next(filter(None, map(LOST.match, lines)), None)
    if told is None:
        return None
    who, how = told.groups()
    full = "/dev/shm (docker run --shm-size)" if "Bus error" in how else "the memory"
    return ChildProcessError(
        f"a process that read data for this one ({who}) was lost: {how.strip()}; if {full} was full, give it more "
        "or use fewer run.feed.workers, and go on from the last checkpoint with --resume"
    )


def end_all() -> None:
    """Kill this process's children; for one that ends without Python's own way to."""
    for child in multiprocessing.active_children():
        with suppress(OSError):
            child.kill()


def _started(rows: _Rows, steps: Iterable[list[int]], workers: int, pin: bool) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # of few cores: the user said how many
        loader: DataLoader[Any] = DataLoader(
            rows,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            generator=torch.Generator(),  # else it draws from the global one, which a resumed run finds as it was left
            collate_fn=_as_it_is,
            pin_memory=pin,
            worker_init_fn=_stand_aside,
        )
        return iter(loader)


def _as_it_is(read: Any) -> Any:
    return read


def _stand_aside(worker: int) -> None:
    """A signal to the whole group of processes is the main one's to answer; its loaders serve until it has."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end(found: list[Any], workers: list[Any]) -> None:
    """Kill processes that read: they hold nothing that must be saved, and one may be stopped, or wait for ever for a
    file. Torch, which would tell of killed ones, hears nothing of it; where it cannot be kept from hearing, it ends
    those that answer itself."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if here else None  # None: nobody in Python hears it
    try:
        if not here:
            found.clear()
        for each in workers:
            each.kill()
        for each in workers:
            each.join()
        found.clear()
    finally:
        if here:
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _portable(error: BaseException) -> BaseException:
    """An error as it can be sent, with the place where it was raised as a note for --debug."""
    place = "".join(traceback.format_exception(error))
    if not isinstance(error, Exception):
        error = RuntimeError(f"{type(error).__name__}({error}) was raised where data were read")
    with suppress(Exception):  # what a plugin raises need not go through a pipe
        sent = pickle.loads(pickle.dumps(error))
        if type(sent) is type(error) and str(sent) == str(error):
            error.__cause__ = error.__context__ = None
            error.add_note(place)
            return error
    bare = RuntimeError(f"{type(error).__name__}: {error}")
    bare.add_note(place)
    return bare
