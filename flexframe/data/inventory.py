"""Inventories of data: how many, of which names and sizes, written when, and a look into some of them. One is kept with
all that is made of data, so that work goes on, or is trained on, with the same data only.

It is plain data: `count`, and where there are files `names`, `sizes` and `times`, each a hash over all of them whatever
their order, `contents`, a hash of those that were looked into, and `whole`, true where these are all.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from flexframe.data.images import odd
from flexframe.data.source import Source
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.kinds import SourceConfig

LOOKED = 256
"""Files that are looked into, evenly spaced."""
ENDS = 1 << 16
"""Bytes at the beginning and at the end of a file that is looked into."""
PARTS = {
    "names": "other names, or another order of them",
    "sizes": "the same names, and some have other sizes",
    "labels": "the same names, and some have other labels",
    "captions": "the same names, and some have other captions",
    "contents": "the same names and sizes, and some hold something else",
}
"""What differs, in words, by what of an inventory shows it."""


class Inventory:
    """A count of files as they are met, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self.sums = {"names": 0, "sizes": 0, "times": 0}

    def add(self, name: str, size: int, time: int) -> None:
        """Take in a file: its name, its size, and when it was written."""
        self.count += 1
        for part, known in zip(self.sums, ((name,), (name, size), (name, size, time)), strict=True):
            digest = hashlib.blake2b(repr(known).encode(), digest_size=16).digest()
            self.sums[part] = (self.sums[part] + int.from_bytes(digest)) % (1 << 128)

    def state(self) -> dict[str, Any]:
        """The inventory so far."""
        return {"count": self.count, **{part: f"{value:032x}" for part, value in self.sums.items()}}


def looked_at(count: int) -> Iterable[int]:
    """The numbers, below `count`, of the files that are looked into."""
    return range(count) if count <= LOOKED else [i * count // LOOKED for i in range(LOOKED)]


def ends(file: Path | BytesIO) -> Iterator[bytes]:
    """Read a file's size, beginning and end; nothing of a pipe, which none may write to.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(file, Path) and odd(file):
        return
    with file.open("rb") if isinstance(file, Path) else file as opened:
        size = opened.seek(0, os.SEEK_END)
        yield size.to_bytes(8)
        opened.seek(0)
        yield opened.read(ENDS)
        opened.seek(max(ENDS, size - ENDS))
        yield opened.read(ENDS)


def changed(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Say in a few words what differs between two inventories of the same data; empty where nothing does, or one was
    not taken. Times alone are no difference where a look into the files shows none, as a copy has others; a warning
    says so where not all were looked into."""
    if not was or not now:
        return ""
    if was["count"] != now["count"]:
        return f"they were {was['count']:,}, and are {now['count']:,} now"
    for part, told in PARTS.items():
        if part in was and part in now and was[part] != now[part]:
            return f"they are as many as before, of {told}"
    if was.get("times") != now.get("times") and "times" in was and "times" in now:
        if "contents" not in was or "contents" not in now:
            return "they have the same names and sizes, and some were written since"
        if not now.get("whole"):
            text = f"files of data of {now['count']:,} rows were written anew, or copied, since they were taken down"
            warnings.warn(f"{text}; {LOOKED} were looked into, and are the same", stacklevel=3)
    return ""


def refuse_changed(
    place: Path | str, told: str, was: Mapping[str, Any] | None, now: Mapping[str, Any] | None, remedy: str
) -> None:
    """See that what was begun with some data goes on with the same.

    Raises:
        ConfigError: they have changed; at `place`, `told` and what differs, and what to do about it.
    """
    differ = changed(was, now)
    if differ:
        raise ConfigError.at(str(place), f"{told}: {differ}; {remedy}")


def changed_since(was: Mapping[str, Any] | None, data: SourceConfig, size: tuple[int, int]) -> str:
    """Say, as `changed` does, what differs in images since something was made of them; empty where they are not here
    any more, for they need not be."""
    if was is None or was.keys() <= {"count"}:
        return ""
    try:
        source: Source = catalogue().build(data, size)
    except (ConfigError, ImportError, OSError):
        return ""
    source.want("labels")
    return changed(was, source.inventory())
