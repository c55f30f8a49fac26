"""Tar shards: the files that a pattern names, their members, and an index of samples that is made once.

A shard is read header by header and never unpacked. Its index is kept in `$FLEXFRAME_HOME/shards`, under a name that
follows from the shard's path, size and time of writing, so that a shard which changes is indexed anew.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexframe.data.images import SUFFIXES, BrokenImage
from flexframe.files import write_bytes
from flexframe.store.hub import home
from flexframe_registry import ConfigError

FORMAT = "shard-1"
MAGIC = b"ffshard1"
HEADER = struct.Struct("<8sIIQ")
"""Magic, the longest key's bytes, members of no use, samples."""
PICKLES = frozenset({"pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill"})
PARTS = ("image", "cls", "json", "txt")
"""What is known of a sample: each a place (offset, size) in the shard."""
ABSENT, UNFIT = -1, -2
"""In an offset's place: there is no such member, or it is a link or something else that is not read."""
MOST = 100_000
"""Shards of one pattern."""
LONGEST = 1024
"""Bytes of a key."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|^[A-Za-z]:")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar file that is no folder."""

    name: str
    offset: int
    """Where its bytes begin in the tar file."""
    size: int
    plain: bool
    """Whether these bytes are the member: not so for links, devices and sparse files."""


def check_id(name: str) -> str:
    """The id, if a file could be called so: a relative path that stays where it is put. Else `ConfigError`."""
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or _UNSAFE.search(name):
        raise ConfigError.at(repr(name), "is no id: ids are relative paths of plain names, without '..' and '\\'")
    return name


def members(path: Path) -> Iterator[Member]:
    """The members of a tar file, in its order; none is held.

    Raises:
        ConfigError: it is compressed, breaks off, or is no tar file.
    """
    total = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as shard:
            while (member := shard.next()) is not None:
                vars(shard)["members"] = []  # else it keeps every header that it has read
                if member.isdir():
                    continue
                plain = member.isreg() and not member.issparse()
                if plain and member.offset_data + member.size > total:
                    raise tarfile.ReadError("unexpected end of data")
                yield Member(member.name.removeprefix("./"), member.offset_data, member.size, plain)
            end = shard.offset
        with path.open("rb") as file:  # tarfile takes a file that breaks off between members, or in a header, as whole
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it breaks off before its end mark")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError.at(str(path), f"is not a whole, uncompressed tar file ({error}); pack it again") from None


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
            raise ConfigError.at("path", f"{str(path)!r} is a folder; name its shards, as {path}/*.tar")
        if not path.is_file():
            raise ConfigError.at("path", f"there is no shard {str(path)!r}")
        if path.suffix.lower() != ".tar":
            raise ConfigError.at("path", f"{str(path)!r} is no uncompressed .tar, whose members can be found by place")
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
            text = "it is a link, or else no plain file, inside of the shard; pack the file itself"
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
        ConfigError: a shard that is not whole, has pickled members, or a sample that cannot be told from another.
    """
    about = shard.stat()
    stamp = (about.st_size, about.st_mtime_ns)
    name = hashlib.sha256(repr((FORMAT, str(shard.resolve()), *stamp)).encode()).hexdigest()[:32]
    file = home() / "shards" / f"{name}.index"
    kept = _open(shard, stamp, file)
    if kept is None:
        content = _build(shard)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content)
        kept = _open(shard, stamp, file)
        assert kept is not None
    return kept


def _open(shard: Path, stamp: tuple[int, int], file: Path) -> Index | None:
    """An index that is kept; None where there is none, or it is not whole."""
    try:
        with file.open("rb") as opened:
            magic, width, unused, count = HEADER.unpack(opened.read(HEADER.size))
            size = os.fstat(opened.fileno()).st_size
    except (FileNotFoundError, struct.error):
        return None
    if magic != MAGIC or size != HEADER.size + count * _dtype(width).itemsize:
        return None
    return Index(shard, stamp, file, width, unused, count)


def _dtype(width: int) -> np.dtype[Any]:
    return np.dtype([*((part, "<i8", 2) for part in PARTS), ("suffix", "S32"), ("key", f"S{max(width, 1)}")])


def _build(shard: Path) -> bytes:
    """The content of a new index."""
    rows: list[tuple[Any, ...]] = []
    unused = 0
    for key, parts in _samples(shard):
        image = _image(shard, key, parts)
        if image is None:
            unused += len(parts)
            continue
        places = [_place(parts.get(part)) for part in PARTS[1:]]
        unused += sum(1 for part in parts if part not in (image, *PARTS[1:]))
        rows.append((_place(parts[image]), *places, image.encode()[:32], key.encode()))
    width = max((len(row[-1]) for row in rows), default=1)
    table = np.array(rows, dtype=_dtype(width))
    keys, counts = np.unique(table["key"], return_counts=True)
    if len(keys) < len(table):
        twice = keys[counts > 1][0].decode()
        raise ConfigError.at(f"{shard}:{twice}", "stands twice in the shard, not in a row; ids must be unique")
    return HEADER.pack(MAGIC, width, unused, len(table)) + table.tobytes()


def _place(member: Member | None) -> tuple[int, int]:
    if member is None:
        return ABSENT, 0
    return (member.offset if member.plain else UNFIT), member.size


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Members of one key in a row, by what follows the first dot of the name, in small letters."""
    last, parts = "", dict[str, Member]()
    for member in members(shard):
        folder, slash, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        key, suffix = f"{folder}{slash}{stem}", suffix.lower()
        if suffix.rpartition(".")[2] in PICKLES:
            text = "is pickled data, which could run code when it is read; pack the shard without it"
            raise ConfigError.at(f"{shard}:{member.name}", text)
        if key != last or not stem:
            if parts:
                yield last, parts
            last, parts = key, {}
        if suffix in parts:
            raise ConfigError.at(f"{shard}:{member.name}", "stands twice in the shard; pack it once")
        parts[suffix] = member
    if parts:
        yield last, parts


def _image(shard: Path, key: str, parts: Mapping[str, Member]) -> str | None:
    """The suffix of a sample's image; None without. A suffix of one part comes before others (`jpg`, `seg.png`)."""
    images = [suffix for suffix in parts if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
    plain = [suffix for suffix in images if "." not in suffix]
    chosen = plain or images
    if not chosen or not key.rpartition("/")[2]:  # `._a.png` is what a Mac keeps beside `a.png`
        return None
    if len(chosen) > 1:
        told = " and ".join(chosen)
        raise ConfigError.at(f"{shard}:{key}", f"has several images, {told}; a sample is one name and one image")
    check_id(key)
    if len(key.encode()) > LONGEST:
        raise ConfigError.at(f"{shard}:{key[:60]}...", f"has a name of over {LONGEST} bytes; shorten it")
    return chosen[0]
