"""The frame of the fuzzers over files: what is done to a file's bytes, and what counts as a clean end."""

from __future__ import annotations

import io
import logging
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flexframe import cli

UNCLEAN = ("not expected", "Traceback", "object at 0x", "_io.")


# --- what happens to files -----------------------------------------------------------------------------------------


def mutated(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """The bytes with a fault: flipped bits mostly; else cut, emptied, with a part lost, twice, swapped, of another file
    (`other`) or of zeros, or with something behind them. It may by chance be what it was."""
    if not data:
        return rng.randbytes(8)
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 64, 512))
    end = min(at + size, len(data))
    to = rng.randrange(len(data))
    how = rng.random()
    if how < 0.4:
        return flipped(rng, data, rng.choice((1, 1, 1, 2, 8)))
    ways: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data[: len(data) - min(rng.choice((1, 2, 7, 100)), len(data))],
        lambda: data[:at] + data[end:],
        lambda: data[:end] + data[at:],
        lambda: data[:at] + rng.randbytes(end - at) + data[end:],
        lambda: data[:at] + bytes(end - at) + data[end:],
        lambda: data[:at] + data[to : to + end - at].ljust(end - at, b"\0") + data[end:],
        lambda: data[:at] + (other or data[::-1])[at:],
        lambda: data[:at] + (other or data[::-1])[to : to + size] + data[end:],
        lambda: data + rng.randbytes(size),
        lambda: data + data,
        lambda: rng.choice((b"", b"\n", b"{}", data[:1], rng.randbytes(size))),
    ]
    return rng.choice(ways)()


def flipped(rng: random.Random, data: bytes, times: int = 1) -> bytes:
    """The bytes with flipped bits: among the first, where formats say what they are, as often as among the others."""
    found = bytearray(data)
    for _ in range(times):
        found[rng.randrange(min(len(data), rng.choice((64, len(data)))))] ^= 1 << rng.randrange(8)
    return bytes(found)


def broken(rng: random.Random, folder: Path, pattern: str) -> Path:
    """Break one of the files of a folder that match; gives which. One in twenty is gone, or a folder in its place."""
    files = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    path = rng.choice(files)
    how = rng.random()
    if how < 0.95:
        path.write_bytes(mutated(rng, path.read_bytes(), rng.choice(files).read_bytes()))
    else:
        path.unlink()
        if how > 0.98:
            path.mkdir()
    return path


# --- what comes of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def clean(self, *names: str) -> None:
        """See that it worked, or that one line says what is wrong, with one of the names in it."""
        told = f"{self.code} {self.err[-1200:]}"
        assert not any(word in self.err + self.out for word in UNCLEAN), told
        assert self.code in (0, 2), told
        lines = [line for line in self.err.splitlines() if line.startswith("flexframe: ")]
        assert len(lines) == (self.code == 2), told
        assert not lines or not names or any(name in lines[0] for name in names), f"names none of {names}: {told}"
        assert all(len(line) < 2000 for line in lines), told

    def told(self, *names: str) -> bool:
        """True where a line that is no error names one of these."""
        return any(name in self.err + self.out for name in names)


Run = Callable[..., Ended]


@pytest.fixture
def run(commands: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process."""
    monkeypatch.setattr(cli, "_asked", lambda words: commands)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["flexframe", *map(str, words)])
        out, err = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(err)
        logging.getLogger("flexframe").addHandler(handler)
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            logging.getLogger("flexframe").removeHandler(handler)
        return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    return call


Fuzz = Callable[..., None]


@pytest.fixture
def fuzz(faults: Any) -> Fuzz:
    """Breaks a file of a copy of a folder, again and again, and sees what comes of a command."""

    def see(
        kind: str,
        count: int,
        whole: Path,
        pattern: str,
        run: Callable[[], Ended],
        outcome: Callable[[], object],
        loose: Sequence[str] = (),
    ) -> None:
        """See that it ends in an error that names the file or its folder; or with what comes of the unbroken folder; or
        that it tells what it did about the file.

        Args:
            whole: the folder; each case has a copy of its own, as the working directory.
            outcome: what the command made, from the working directory.
            loose: names of files of which nothing is asked but a clean end, for they carry no checksum and no number
                rests on them, or people change them.
        """
        place = whole.with_name(f"{whole.name}-case")
        with inside(whole, place):
            run().clean()
            wanted = outcome()
        for name, rng in faults.draws(kind, count):
            with inside(whole, place), faults.of(name):
                path = broken(rng, Path(), pattern)
                names = {str(path), path.name, str(path.parent)} - {"."}
                ended = run()
                ended.clean(*names)
                if ended.code == 0 and path.name not in loose and not ended.told(*names - {str(path.parent)}):
                    assert outcome() == wanted, f"{path} is broken, and another outcome is not told: {ended}"
        faults.none()

    return see


@contextmanager
def inside(whole: Path, place: Path) -> Iterator[None]:
    """A copy of a folder as the working directory."""
    shutil.copytree(whole, place, symlinks=True)
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(place)
