"""One run a folder: a file that names who trains there, refreshed while he does."""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from flexframe.files import write_text
from flexframe_registry import ConfigError
from flexframe_registry.runfolder import RunFolder

REFRESH = 30.0
"""Seconds between two signs of life."""
STALE = 300.0
"""Seconds without one after which a lock of another host counts as left behind."""


class Lock:
    """Held by a process from `take` to `release`, or to its end. A killed process leaves a stale lock, which the next
    one takes: on the same host it sees that the process is gone, and elsewhere that the file is no longer refreshed."""

    def __init__(self, folder: Path) -> None:
        self.path = RunFolder(folder).lock
        self.ended = threading.Event()
        self.held = False

    def take(self) -> None:
        """Take the folder.

        Raises:
            ConfigError: another process trains in it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
        beside = self.path.with_name(f".{self.path.name}-{own['host']}-{own['pid']}")
        write_text(beside, json.dumps(own))
        try:
            for _ in range(3):
                try:
                    os.link(beside, self.path)  # whole or not at all, also on network file systems
                    break
                except FileExistsError:
                    self._judge(own, beside)
            else:
                raise ConfigError.at(str(self.path), "is taken by several processes at once; try again")
        finally:
            beside.unlink(missing_ok=True)
        self.held = True
        atexit.register(self.release)
        threading.Thread(target=self._refresh, daemon=True, name="flexframe lock").start()

    def release(self) -> None:
        """Leave the folder to others; nothing where it is not held."""
        if self.held:
            self.held = False
            self.ended.set()
            atexit.unregister(self.release)
            self.path.unlink(missing_ok=True)

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
            text = "is no lock that flexframe wrote; delete it if no run is here"
            raise ConfigError.at(str(self.path), text) from None
        os.utime(beside)  # by the clock of the file's own server
        silent = beside.stat().st_mtime - touched
        if host == own["host"]:
            gone = not _lives(pid) or _began(pid) != began
        else:
            gone = silent > STALE
        if gone or (host, pid, began) == (own["host"], own["pid"], own["began"]):
            self.path.unlink(missing_ok=True)
            return
        where = f"process {pid} on {host} trains here (last sign of life {max(0, silent):.0f} s ago)"
        advice = "wait for it or stop it; name another folder with -o for another run"
        if host != own["host"]:
            advice += f"; if its host is gone, delete this file, or wait until it is {STALE:.0f} s old"
        raise ConfigError.at(str(self.path), f"{where}; {advice}")

    def _refresh(self) -> None:
        while not self.ended.wait(REFRESH):
            try:
                os.utime(self.path)
            except OSError:
                return  # the folder is gone, or was taken by hand; the run's own writes will tell


def holder(folder: Path) -> tuple[str, bool] | None:
    """The holder of a folder, or who was killed there, and whether he lives; None where the folder is free. Changes
    nothing. A holder on another host counts as living until his lock is stale."""
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
