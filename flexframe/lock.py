"""One process at a time for what is written: a file that names who is at work there, refreshed while he is."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

REFRESH = 30.0
"""Seconds between two signs of life."""
STALE = 300.0
"""Seconds without one after which a lock of another host counts as left behind."""


Function = TypeVar("Function", bound=Callable[..., Any])
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
"""Places that this thread's functions hold."""


def writes(*names: str, part: str = "") -> Callable[[Function], Function]:
    """Hold the places that a function writes, by the names of its arguments, while it runs: another process that would
    write there is told who does. With a `part`, that of a folder which others may share. A place that a caller holds is
    its own already."""

    def held(function: Function) -> Function:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            given = signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            places = [Path(given.arguments[name]) / part for name in names if given.arguments[name]]
            new = {place.expanduser().resolve(): place for place in places}
            before = _held.get()
            with ExitStack() as stack:
                for whole, place in new.items():
                    if whole not in before:
                        stack.enter_context(Lock.of_output(place))
                token = _held.set(before | new.keys())
                try:
                    return function(*args, **kwargs)
                finally:
                    _held.reset(token)

        return cast(Function, run)

    return held


class Lock:
    """Held by a process from `take` to `release`, or to its end. A killed process leaves a stale lock, which the next
    one takes: on the same host it sees that the process is gone, and elsewhere that the file is no longer refreshed."""

    def __init__(self, path: Path, place: Path | None = None, doing: str = "writes here") -> None:
        """Made of the lock's file, and of the place that an error names where that is another."""
        self.path, self.place, self.doing = path, place or path, doing
        self.ended = threading.Event()
        self.held = False
        self.made: list[Path] = []
        """Folders that were not there; those in which nothing was written go with it."""

    @classmethod
    def of_run(cls, folder: Path) -> Lock:
        """The lock of a run's folder, in it."""
        from flexframe_registry.runfolder import RunFolder

        return cls(RunFolder(folder).lock, doing="trains here")

    @classmethod
    def of_output(cls, place: Path) -> Lock:
        """The lock of a file or folder that is written: beside it, for what is in a folder is looked at; where nothing
        can be written there, among this machine's temporary files."""
        whole = place.expanduser().resolve()
        above = next((parent for parent in whole.parents if parent.exists()), whole)
        name = f"flexframe-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]}.lock"
        here = above.is_dir() and os.access(above, os.W_OK)
        return cls(whole.with_name(f".{name}") if here else Path(tempfile.gettempdir()) / name, place)

    def __enter__(self) -> Lock:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Take the place.

        Raises:
            ConfigError: another process is at work there.
        """
        self.made = [parent for parent in self.path.parents if not parent.exists()]
        own = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
        beside = self.path.with_name(f".{self.path.name}-{own['host']}-{own['pid']}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(own))
            for _ in range(3):
                try:
                    _put(beside, self.path)
                    break
                except FileExistsError:
                    self._judge(own, beside)
            else:
                raise _refused(self.place, "is taken by several processes at once; try again")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.place)) from None
        finally:
            with suppress(OSError):  # a disk that cannot be written to holds none
                beside.unlink(missing_ok=True)
        self.held = True
        atexit.register(self.release)
        threading.Thread(target=self._refresh, daemon=True, name="flexframe lock").start()

    def release(self) -> None:
        """Leave the place to others; nothing where it is not held."""
        if self.held:
            self.held = False
            self.ended.set()
            atexit.unregister(self.release)
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # the first that holds anything ends it
                for folder in self.made:
                    folder.rmdir()

    def _judge(self, own: dict[str, Any], beside: Path) -> None:
        """Remove a stale lock, or one of this very process; refuse where its holder lives."""
        try:
            text, touched = self.path.read_text(), self.path.stat().st_mtime
        except FileNotFoundError:
            return  # released in this moment
        try:
            holder = json.loads(text)
            host, pid, began = holder["host"], holder["pid"], holder["began"]
        except (ValueError, KeyError, TypeError):
            text = "is no lock that flexframe wrote; delete it if nobody is at work here"
            raise _refused(self.path, text) from None
        os.utime(beside)  # by the clock of the file's own server
        silent = beside.stat().st_mtime - touched
        if host == own["host"]:
            gone = not _lives(pid) or _began(pid) != began
        else:
            gone = silent > STALE
        if gone or (host, pid, began) == (own["host"], own["pid"], own["began"]):
            self.path.unlink(missing_ok=True)
            return
        where = f"process {pid} on {host} {self.doing} (last sign of life {max(0, silent):.0f} s ago)"
        advice = "wait for it or stop it; name another place with -o for other work"
        if host != own["host"]:
            advice += f"; if its host is gone, delete {self.path}, or wait until that is {STALE:.0f} s old"
        raise _refused(self.place, f"{where}; {advice}")

    def _refresh(self) -> None:
        while not self.ended.wait(REFRESH):
            try:
                os.utime(self.path)
            except OSError:
                return  # the folder is gone, or was taken by hand; the run's own writes will tell


def _put(beside: Path, path: Path) -> None:
    try:
        os.link(beside, path)  # whole or not at all, also on network file systems
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with path.open("x") as file:
            file.write(beside.read_text())


def _refused(place: Path, text: str) -> Exception:
    """The error of a place. The registry is imported when there is one: commands are decorated before they are run."""
    from flexframe_registry import ConfigError

    return ConfigError.at(str(place), text)


def holder(folder: Path) -> tuple[str, bool] | None:
    """The holder of a folder, or who was killed there, and whether he lives; None where the folder is free. Changes
    nothing. A holder on another host counts as living until his lock is stale."""
    from flexframe_registry.runfolder import RunFolder

    path = RunFolder(folder).lock
    try:
        told, touched = json.loads(path.read_text()), path.stat().st_mtime
        host, pid, began = told["host"], told["pid"], told["began"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    here = host == socket.gethostname()
    lives = _lives(pid) and _began(pid) == began if here else time.time() - touched <= STALE
    return f"process {pid} on {host}", lives


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _began(pid: int) -> str | None:
    """When a process of this host began, in the system's own count; None where it is gone but for its exit code, or the
    system does not tell. Numbers are used again, and after a restart of the machine soon."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
