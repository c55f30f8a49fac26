"""Members of a tar file, and the images among them with what lies beside each: one reading for every command.

A tar file is read header by header and never unpacked. It may be several joined in a row, as `cat a.tar b.tar` joins
them. Members need stand in no order: they are brought together by name in a database of SQLite's on disk, so that
memory does not grow with them.
"""

from __future__ import annotations

import os
import posixpath
import re
import sqlite3
import tarfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flexframe.data.leftout import BESIDE, LeftOut, hidden
from flexframe_registry import ConfigError

LONGEST = 1024
"""Bytes of an image's name."""
PORTION = 1 << 20
HOPS = 8
"""Links that follow each other, at most."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|^[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a tar file that is no folder."""

    name: str
    offset: int
    """Where its bytes begin in the tar file."""
    size: int
    plain: bool
    """Whether these bytes are the member: not so for links, devices and sparse files."""
    target: str = ""
    """Of a link, the member that it stands for."""


@dataclass(frozen=True, slots=True)
class TarImage:
    """An image of a tar file."""

    name: str
    key: str
    """The name without its suffix."""
    suffix: str
    """In small letters, without the dot."""
    places: Mapping[str, Member]
    """The member of `image`, and those of `cls`, `json` and `txt` that are there."""
    apart: bool
    """Whether other images stand between it and what lies beside it."""


def check_id(name: str, place: object) -> str:
    """The id of an image of a place, if a file could be called so: a relative path that stays where it is put.

    Raises:
        ConfigError: it could not.
    """
    if any("\udc80" <= letter <= "\udcff" for letter in name):
        text = f"holds an image whose name is not UTF-8, {name!r}; rename it, for ids are written as UTF-8"
        raise ConfigError.at(str(place), text)
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or _UNSAFE.search(name):
        text = f"holds {name!r}, which is no id: ids are relative paths of plain names, without '..' and '\\'"
        raise ConfigError.at(str(place), text)
    return name


# --- members -------------------------------------------------------------------------------------------------------


def members(path: Path) -> Iterator[Member]:
    """The members of a tar file, in its order; none is held.

    Raises:
        ConfigError: it is compressed, breaks off, goes on with something else after its end mark, or is no tar file.
    """
    total = path.stat().st_size
    try:
        with path.open("rb") as file:
            start: int | None = 0
            while start is not None:
                file.seek(start)
                end = yield from _archive(file, total)
                start = _after(file, end)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ConfigError.at(str(path), f"is not a whole, uncompressed tar file ({error}); pack it again") from None


def _archive(file: BinaryIO, total: int) -> Generator[Member, None, int]:
    """Members of the archive that begins here; gives where it ends."""
    with tarfile.open(fileobj=file, mode="r:") as shard:
        while (member := shard.next()) is not None:
            vars(shard)["members"] = []  # else it keeps every header that it has read
            if member.isdir():
                continue
            plain = member.isreg() and not member.issparse()
            if plain and member.offset_data + member.size > total:
                raise tarfile.ReadError("unexpected end of data")
            name = member.name.removeprefix("./")
            target = ""
            if member.islnk():
                target = posixpath.normpath(member.linkname)
            elif member.issym():
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            yield Member(name, member.offset_data, member.size, plain, target)
        return shard.offset


def _after(file: BinaryIO, end: int) -> int | None:
    """Where another archive begins behind an end mark; None where there is none."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile takes a file that breaks off as whole
        raise tarfile.ReadError("it breaks off before its end mark, or goes on with what is no tar file behind it")
    place = end + tarfile.BLOCKSIZE
    while portion := file.read(PORTION):
        rest = portion.lstrip(b"\0")
        if rest:
            return place + (len(portion) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        place += len(portion)
    return None


# --- images --------------------------------------------------------------------------------------------------------

TABLES = """
CREATE TABLE image (number INTEGER PRIMARY KEY, name BLOB, stem BLOB, first BLOB, suffix TEXT, start INT, size INT);
CREATE TABLE side (number INTEGER PRIMARY KEY, stem BLOB, part TEXT, start INT, size INT, plain INT, target BLOB);
"""
INDEXES = """
CREATE INDEX image_stem ON image (stem, suffix);
CREATE INDEX image_first ON image (first);
CREATE INDEX side_stem ON side (stem);
"""


def images(path: Path, left_out: LeftOut) -> Iterator[TarImage]:
    """The images of a tar file, in its order, each with the label and the caption beside it.

    A name ends at its last dot: `photo.1.png` is an image of its own, and `photo.1.cls` its label. But `a.seg.png`
    beside an image `a.jpg` is a part of that one, as WebDataset has it, and is left out; and where `a.seg.png` is the
    only image whose name begins with `a.`, `a.cls` is its label. Hard and symbolic links stand for the members that
    they lead to.

    Args:
        left_out: is told what no image is made of.

    Raises:
        ConfigError: a tar file that is not whole, a name that leads elsewhere, or one that stands there twice.
    """
    with closing(sqlite3.connect("")) as db:  # a database of no name is on disk, and gone at the end
        db.executescript(TABLES)
        places: dict[str, Member] = {}
        links = _take_down(path, db, left_out)
        if links:
            places = _followed(path, links)
        db.executescript(INDEXES)
        twice = db.execute("SELECT max(name) FROM image GROUP BY stem, suffix HAVING count(*) > 1 LIMIT 1").fetchone()
        if twice is not None:
            text = "stands twice in the shard; ids must be unique, so pack it once"
            raise ConfigError.at(f"{path}:{os.fsdecode(twice[0])}", text)
        yield from _joined(path, db, places, left_out)


def _take_down(path: Path, db: sqlite3.Connection, left_out: LeftOut) -> dict[str, str]:
    """Write images and what may lie beside them into the tables; gives the links among them, by name."""
    links: dict[str, str] = {}
    for number, member in enumerate(members(path)):
        folder, slash, base = member.name.rpartition("/")
        stem, dot, suffix = base.rpartition(".")
        stem, suffix = f"{folder}{slash}{stem}", suffix.lower()
        start = member.offset if member.plain else -1
        if left_out.take(member.name):
            check_id(member.name, path)
            if len(member.name.encode()) > LONGEST:
                raise ConfigError.at(f"{path}:{stem[:60]}...", f"has a name of over {LONGEST} bytes; shorten it")
            first = f"{folder}{slash}{base.partition('.')[0]}"
            row = (number, os.fsencode(member.name), os.fsencode(stem), os.fsencode(first), suffix, start, member.size)
            db.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        elif dot and suffix in BESIDE and not hidden(member.name):
            side = (number, os.fsencode(stem), suffix, start, member.size, member.plain, os.fsencode(member.name))
            db.execute("INSERT INTO side VALUES (?, ?, ?, ?, ?, ?, ?)", side)
        else:
            continue
        if member.target:
            links[member.name] = member.target
    return links


def _followed(path: Path, links: Mapping[str, str]) -> dict[str, Member]:
    """The plain members that links lead to, by the links' names; those that lead out of the tar file are not there."""
    ends: dict[str, str] = {}
    for name, target in links.items():
        hops = 0
        while target in links and hops < HOPS:
            target, hops = links[target], hops + 1
        ends[name] = target
    wanted = set(ends.values())
    plain = {member.name: member for member in members(path) if member.plain and member.name in wanted}
    return {name: plain[end] for name, end in ends.items() if end in plain}


def _joined(path: Path, db: sqlite3.Connection, places: Mapping[str, Member], left_out: LeftOut) -> Iterator[TarImage]:
    sides = db.execute("SELECT count(*) FROM side").fetchone()[0]
    for number, *names, suffix, start, size in db.execute("SELECT * FROM image ORDER BY number"):
        name, stem, first = map(os.fsdecode, names)
        further = stem[len(first) + 1 :].lower()
        a_part = further and not further.replace(".", "").isdigit()
        if a_part and db.execute("SELECT 1 FROM image WHERE stem = ?", [names[2]]).fetchone():
            left_out.others[f".{further}.{suffix}"] += 1
            continue
        parts, numbers = _beside(path, db, names[1], places)
        if not parts and first != stem:
            (alike,) = db.execute("SELECT count(*) FROM image WHERE first = ?", [names[2]]).fetchone()
            if alike == 1:
                parts, numbers = _beside(path, db, names[2], places)
        sides -= len(parts)
        image = places.get(name, Member(name, start, size, start >= 0))
        apart = False
        if numbers:
            low, high = min(number, *numbers), max(number, *numbers)
            between = "SELECT 1 FROM image WHERE number BETWEEN ? AND ? AND first != ?"
            apart = db.execute(between, [low, high, names[2]]).fetchone() is not None
        yield TarImage(name, stem, suffix, {"image": image, **parts}, apart)
    if sides > 0:
        left_out.others["labels and captions of no image"] += sides


def _beside(
    path: Path, db: sqlite3.Connection, stem: bytes, places: Mapping[str, Member]
) -> tuple[dict[str, Member], list[int]]:
    """Members beside an image by their part, and their numbers."""
    parts: dict[str, Member] = {}
    numbers = []
    rows = db.execute("SELECT number, part, start, size, plain, target FROM side WHERE stem = ?", [stem])
    for number, part, start, size, plain, name in rows:
        told = os.fsdecode(name)
        if part in parts:
            raise ConfigError.at(f"{path}:{told}", "stands twice in the shard; pack it once")
        parts[part] = places.get(told, Member(told, start, size, bool(plain)))
        numbers.append(number)
    return parts, numbers
