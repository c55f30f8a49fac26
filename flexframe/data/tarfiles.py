"""Tar shards: the files that a pattern names, and an index of their samples that is made once.

A shard's index is kept in `$FLEXFRAME_HOME/shards`, under a name that
follows from the shard's path, size and time of writing, so that a shard which changes is indexed anew.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexframe.data.images import BrokenImage
from flexframe.data.leftout import LeftOut
from flexframe.data.tarmembers import Member, images
from flexframe.store.hub import home, keep
from flexframe_registry import ConfigError

FORMAT = "shard-3"
MAGIC = b"ffshard3"
HEADER_BEGINS = struct.Struct("<8sI")
HEADER = struct.Struct("<8sIIIIIQ")
"""Magic, CRC-32 of what follows, the longest key's bytes, members of no use, hidden images, images apart from their
labels, samples."""
CHECKED = HEADER_BEGINS.size
"""Where that begins which has the CRC."""
PARTS = ("image", "cls", "json", "txt")
"""What is known of a sample: each a place (offset, size) in the shard."""
ABSENT, UNFIT = -1, -2
"""In an offset's place: there is no such member, or it is a link or something else that is not read."""
MOST = 100_000
"""Shards of one pattern."""
_BRACES = re.compile(r"\{([^{}]*)\}")


# --- patterns ------------------------------------------------------------------------------------------------------


def braces(pattern: str) -> list[str]:
    """A pattern with `{000..009}` and `{a,b}` written out, in order; others' digits keep their zeros.

    Raises:
        ConfigError: they are too many.
    """
    written = [pattern]
    while any(_BRACES.search(each) for each in written):
        before, written = written, []
        for each in before:
            written += _first_brace(each)
            if len(written) > MOST:
                raise ConfigError.at("path", f"{pattern!r} names more than {MOST:,} files; name fewer")
    return written


def _first_brace(pattern: str) -> list[str]:
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    inner = match[1]
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if ends is not None:
        first, last = (int(end) for end in ends.groups())
        if last - first >= MOST:
            raise ConfigError.at("path", f"{{{inner}}} names more than {MOST:,} files; name fewer")
        width = len(ends[1]) if len(ends[1]) == len(ends[2]) or ends[1].startswith("0") else 0
        each = [str(number).zfill(width) for number in range(first, last + 1)]
    else:
        each = inner.split(",")
    if not each or (ends is None and len(each) == 1):
        text = f"{{{inner}}} in {pattern!r} is no range and no list; write {{000..009}} or {{a,b}}"
        raise ConfigError.at("path", text)
    return [pattern[: match.start()] + one + pattern[match.end() :] for one in each]


def shards(pattern: str) -> list[Path]:
    """The tar files that a path, a glob or braces name: braces in their order, each glob sorted.

    Raises:
        ConfigError: one that is not there, is no .tar, or is named twice.
    """
    return checked(files_of(pattern, "shard", ".tar"))


def checked(paths: list[Path]) -> list[Path]:
    """Shards, each of which is a .tar by its name.

    Raises:
        ConfigError: one is not.
    """
    for path in paths:
        if path.suffix.lower() != ".tar":
            raise ConfigError.at("path", f"{str(path)!r} is no uncompressed .tar, whose members can be found by place")
    return paths


def files_of(pattern: str, what: str, kind: str) -> list[Path]:
    """The files that a path, a glob or braces name: braces in their order, each glob sorted.

    Args:
        what: what each of them is, for errors.
        kind: how its name ends, for errors.

    Raises:
        ConfigError: one that is not there, is a folder, or is named twice.
    """
    paths: list[Path] = []
    for text in braces(str(Path(pattern).expanduser())) if not Path(pattern).expanduser().exists() else [pattern]:
        path = Path(text).expanduser()
        if glob.has_magic(text) and not path.exists():
            matches = sorted(Path(match) for match in glob.iglob(text, recursive=True))
            if not matches:
                raise ConfigError.at("path", f"no file matches {text!r}")
            paths += matches
        else:
            paths.append(path)
    for path in paths:
        if path.is_dir():
            raise ConfigError.at("path", f"{str(path)!r} is a folder; name its {what}s, as {path}/*{kind}")
        if not path.is_file():
            raise ConfigError.at("path", f"there is no {what} {str(path)!r}")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ConfigError.at("path", f"{pattern!r} names {str(twice)!r} twice")
    return paths


# --- the index -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A sample of a shard."""

    key: str
    suffix: str
    """The image's, without a dot."""
    places: Mapping[str, tuple[int, int]]
    """By part, offset and size; parts that are not there are left out."""


@dataclass(frozen=True, slots=True)
class Index:
    """The samples of a shard, by number. Holds none of them: a row is read when it is asked for."""

    shard: Path
    stamp: tuple[int, int]
    """The shard's size and time of writing when it was indexed."""
    file: Path
    width: int
    unused: int
    """Members that belong to no image."""
    hidden: int
    """Images that are hidden, and left out."""
    apart: int
    """Images that stand apart from their labels or captions."""
    count: int

    def row(self, number: int) -> Row:
        """The sample of this number."""
        dtype = _dtype(self.width)
        with self.file.open("rb", buffering=0) as file:
            file.seek(HEADER.size + number * dtype.itemsize)
            record = np.frombuffer(file.read(dtype.itemsize), dtype)[0]
        places = {part: (int(record[part][0]), int(record[part][1])) for part in PARTS if record[part][0] != ABSENT}
        return Row(record["key"].decode(), record["suffix"].decode(), places)

    def read(self, row: Row, part: str) -> bytes | None:
        """The bytes of a part of a sample; None where it has none. A file is open only while this reads it, so that
        processes and threads need not share one.

        Raises:
            BrokenImage: the member is none to be read, or the shard was changed.
        """
        if part not in row.places:
            return None
        offset, size = row.places[part]
        if offset == UNFIT:
            text = "it is a link out of the shard, or else no plain file, inside of it; pack the file itself"
            raise BrokenImage(f"cannot read {self.shown(row, part)}: {text}")
        with self.shard.open("rb", buffering=0) as file:
            about = os.fstat(file.fileno())
            file.seek(offset)
            content = file.read(size)
        if (about.st_size, about.st_mtime_ns) != self.stamp or len(content) != size:
            raise BrokenImage(f"cannot read {self.shown(row, part)}: the shard was changed meanwhile; start again")
        return content

    def shown(self, row: Row, part: str = "image") -> str:
        """The name that an error gives it."""
        return f"{self.shard}:{row.key}.{row.suffix if part == 'image' else part}"


def index(shard: Path) -> Index:
    """The index of a shard: the one that is kept, or a new one. Processes that make it at once make the same.

    Raises:
        ConfigError: a shard that is not whole, or a sample that cannot be told from another.
    """
    about = shard.stat()
    stamp = (about.st_size, about.st_mtime_ns)
    which = about.st_ino, about.st_ctime_ns  # another file may have the size and time of the one before
    name = hashlib.sha256(repr((FORMAT, str(shard.resolve()), *stamp, *which)).encode()).hexdigest()[:32]
    kept = _open(shard, stamp, home() / "shards" / f"{name}.index")
    if kept is None:
        kept = _open(shard, stamp, keep(f"shards/{name}.index", _build(shard)))
        assert kept is not None
    return kept


def _open(shard: Path, stamp: tuple[int, int], file: Path) -> Index | None:
    """An index that is kept; None where there is none, or it is not whole."""
    try:
        with file.open("rb") as opened:
            header = opened.read(HEADER.size)
            magic, sum_, width, unused, hidden, apart, count = HEADER.unpack(header)
            crc = zlib.crc32(header[CHECKED:])
            while chunk := opened.read(1 << 20):
                crc = zlib.crc32(chunk, crc)
            size = opened.tell()
    except (OSError, struct.error):
        return None
    if magic != MAGIC or sum_ != crc or size != HEADER.size + count * _dtype(width).itemsize:
        return None
    return Index(shard, stamp, file, width, unused, hidden, apart, count)


def _dtype(width: int) -> np.dtype[Any]:
    return np.dtype([*((part, "<i8", 2) for part in PARTS), ("suffix", "S32"), ("key", f"S{max(width, 1)}")])


def _build(shard: Path) -> bytes:
    """The content of a new index."""
    rows: list[tuple[Any, ...]] = []
    left_out, apart = LeftOut(), 0
    for image in images(shard, left_out):
        rows.append((*(_place(image.places.get(part)) for part in PARTS), image.suffix.encode(), image.key.encode()))
        apart += image.apart
    width = max((len(row[-1]) for row in rows), default=1)
    table = np.array(rows, dtype=_dtype(width))
    told = left_out.others.total(), left_out.hidden.total(), apart
    rest, rows_ = HEADER.pack(MAGIC, 0, width, *told, len(table))[CHECKED:], table.tobytes()
    return HEADER_BEGINS.pack(MAGIC, zlib.crc32(rows_, zlib.crc32(rest))) + rest + rows_


def _place(member: Member | None) -> tuple[int, int]:
    if member is None:
        return ABSENT, 0
    return (member.offset if member.plain else UNFIT), member.size
