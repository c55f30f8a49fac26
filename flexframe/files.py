"""Files on disk: writing them whole or not at all, their hashes and checksums, journals of work that may be killed at
any moment, and the refusal to go on with what was begun with other settings.

What a later command reads carries a checksum: JSON by `write_json`, which `flexframe_registry.files.read_json` reads;
safetensors by `seal`, which `check_seal` checks; a journal by itself. What has none was written before there were any.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import secrets
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import Any, ClassVar, TypeVar

from safetensors import SafetensorError

from flexframe_registry import ConfigError
from flexframe_registry.files import CHANGED, CHECKSUM, SUM, checksum

Held = TypeVar("Held", bound="Journal")
COMMIT_EVERY = 1.0
"""Seconds of work that a kill may cost a journal, at the most, beyond the batch in hand."""
NAMED = 4
"""Differences that a refusal names."""
SHOWN = 80
"""Characters of a value that a refusal shows."""
PAGE = 4096
"""Bytes of a file that shows whether a disk has room for any."""
LONGEST = 200
"""Bytes of a file's name that fit into the name of its part; file systems take 255."""
_PART = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.part", re.DOTALL)
BLANK = {CHECKSUM: SUM + "0" * 64}
"""Metadata with which a safetensors file is written that is to be sealed."""
_SEAL = re.compile(rb'"checksum":"sha256:([0-9a-f]{64})"')
_MARKS = b'"checksum":"', b'":"sha256:'
"""What shows that there is a seal: a flipped bit leaves one of them."""
MAX_HEADER = 100_000_000
"""Bytes of a safetensors file's header, at the most: the library's own limit."""


# --- whole or absent ---------------------------------------------------------------------------------------------


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """The name of a part beside `path`, for a writer to write; as the block ends it is flushed to disk and takes the
    place of `path` in one step. No other process has the same part, and where the block raises it is deleted.

    Its suffix is `.part`: a writer that goes by suffixes is told the format itself.

    Raises:
        OSError: the disk is full, or does not take it for another reason; it names `path`, which is as it was.
    """
    part = path.with_name(f".{_stem(path)}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        named = _named(error, path, part)
        if named is error:
            raise
        raise named from error
    finally:
        with suppress(OSError):  # a disk that cannot be written to refuses even what is not there
            part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replaced(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a file of UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[Any, Any], *, sort_keys: bool = False) -> None:
    """Write plain data as JSON with an indentation of one space, and its checksum, whole or not at all."""
    write_bytes(path, json_bytes(value, sort_keys=sort_keys))


def json_bytes(value: Mapping[Any, Any], *, sort_keys: bool = False) -> bytes:
    """The content of a file of `write_json`."""
    summed = {**value, CHECKSUM: checksum(value)}
    return (json.dumps(summed, indent=1, ensure_ascii=False, sort_keys=sort_keys) + "\n").encode()


def see_writable(path: Path) -> None:
    """See that a file can be written, and make its folder: before long work, whose result is to go there.

    Raises:
        OSError: the disk does not take it, in its own words; it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryFile(dir=path.parent) as file:
            file.write(bytes(PAGE))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def drop_parts(path: Path) -> None:
    """Delete the parts that killed writers of a file, or of files in a folder, left; for the one process that may write
    there."""
    parts = path.rglob(".*.part") if path.is_dir() else path.parent.glob(f".{glob.escape(_stem(path))}.*.part")
    for part in parts:
        if _PART.fullmatch(part.name):
            part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Put what was written of a file, or of a folder's list of names, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _named(error: Exception, path: Path, part: Path) -> Exception:
    """An error of writing `part` as one of `path`, with the system's number; what is of another file stays as it is."""
    if isinstance(error, SafetensorError):
        return of_system(error, path)
    assert isinstance(error, OSError)
    if error.errno is None or error.filename not in (None, str(part), part):
        return error
    return OSError(error.errno, error.strerror, str(path))


def of_system(error: Exception, path: Path) -> Exception:
    """Turn what safetensors says of the system into an error of the system about `path`; any other stays as it is."""
    number = re.search(r"os error (\d+)", str(error)) if isinstance(error, SafetensorError) else None
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else error


def _stem(path: Path) -> str:
    return path.name if len(os.fsencode(path.name)) <= LONGEST else hashlib.sha256(os.fsencode(path.name)).hexdigest()


# --- hashes ------------------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The sha256 of a file's content in hexadecimal digits; a file of any size is never held whole.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- seals -------------------------------------------------------------------------------------------------------


def seal(path: Path) -> None:
    """Write its checksum into a safetensors file whose metadata has `BLANK`: the hash of the file with zeros for the
    digits. Its metadata are put in the order of their names, which the library leaves to chance."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)
        file.flush()
        digits = sha256(path)
        file.seek(8 + seal_place(text))
        file.write(digits.encode())


def seal_place(header: bytes) -> int:
    """The place in the header of a safetensors file where the digits of its seal begin."""
    place = _SEAL.search(header)
    assert place is not None
    return place.start(1)


def sealed(path: Path) -> bool:
    """Tell whether a safetensors file is as it was sealed; one without a seal is taken as it is.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.read(8)
        text = file.read(min(int.from_bytes(size, "little"), MAX_HEADER))
        place = _SEAL.search(text)
        if place is None and not any(mark in text for mark in _MARKS):
            return True
        blank = text if place is None else text[: place.start(1)] + b"0" * 64 + text[place.end(1) :]
        digest = hashlib.sha256(size + blank)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return place is not None and digest.hexdigest() == place[1].decode()


def check_seal(path: Path, remedy: str) -> None:
    """See that a safetensors file is as it was sealed.

    Args:
        remedy: what to do where it is not.

    Raises:
        ConfigError: it is not.
        OSError: it cannot be read.
    """
    if not sealed(path):
        raise ConfigError.at(str(path), f"{CHANGED}; {remedy}")


# --- pointers ----------------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/"
"""Beginning of the text that stands for a file which git-lfs has not fetched."""


def is_pointer(head: bytes) -> bool:
    """Tell whether a file that begins so is a pointer of git-lfs and not the file itself."""
    return head.startswith(POINTER)


def refuse_pointer(path: Path) -> None:
    """See that a file is not what git-lfs leaves in a file's place.

    Raises:
        ConfigError: it is.
        OSError: it is not there, or cannot be read.
    """
    with path.open("rb") as file:
        if is_pointer(file.read(len(POINTER))):
            raise ConfigError.at(str(path), POINTED)


POINTED = "is a pointer of git-lfs and not the file itself; run `git lfs pull` in its repository, or download the file"

# --- begun otherwise ---------------------------------------------------------------------------------------------


def refuse_other(place: Path | str, told: str, was: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """See that what was begun with some settings goes on with the same.

    Args:
        place: what holds the settings, as an error names it.
        told: what it is where they differ: "was begun otherwise", "holds another benchmark".
        was: the settings that it was begun with, as JSON gives them.
        now: the settings asked for; compared as JSON would give them.
        remedy: what to do about it.

    Raises:
        ConfigError: they differ; the sentence names the first differences, with what was found and what is wanted.
    """
    differ = differences(was, now)
    if differ:
        more = [f"and {len(differ) - NAMED} more"] if len(differ) > NAMED else []
        raise ConfigError.at(str(place), f"{told}: {'; '.join([*differ[:NAMED], *more])}; {remedy}")


def differences(was: Any, now: Any) -> list[str]:
    """`a.b was 1 and is 2` for each setting of nested plain data that differs, as JSON would give the data."""
    return [text for _, text in differing(was, json.loads(json.dumps(now)))]


def differing(was: Any, now: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """List `differences`, each with the setting's name, of two settings as JSON gives them."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            yield from differing(was.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif was != now:
        yield name, f"{name} was {_shown(was)} and is {_shown(now)}"


def _shown(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# --- journals ----------------------------------------------------------------------------------------------------


class Journal:
    """The record of what a piece of work has done so far, in one SQLite file beside its output. Killed at any moment,
    the work goes on from there. One process at a time may hold it; where nothing was done, and when all is, it is
    deleted.

    A kind of work derives from it, and says which tables it has.

    Raises:
        ConfigError: another process holds it, it cannot be written, it is no journal, or not as it was written.
        OSError: the disk is full, or does not take it for another reason; on leaving it too.
    """

    TABLES: ClassVar[Sequence[str]]
    """`NAME (COLUMNS)` of each table; `rows` is among them, one row a thing done, its number first."""
    WORK: ClassVar[str]
    """The work with its article, as an error names it: "an encoding"."""

    def __init__(self, path: Path) -> None:
        self.path, self._saved, self._whole = path, monotonic(), False
        self._others: int | None = None
        try:
            self.db = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise self._told(error) from None
        try:
            self._begin()
        except BaseException as error:
            self.db.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise self._told(error) from None
            raise

    def _begin(self) -> None:
        """Take the file, and see that it is as it was written; one of before there were sums is taken as it is."""
        self.db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.db.execute("BEGIN EXCLUSIVE")
        for table in (*self.TABLES, "sums (rows TEXT, others TEXT)"):
            self.db.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        self.db.execute("COMMIT")
        self._sum = sum(map(_digest, self.db.execute("SELECT * FROM rows")))
        found, kept = self._sums(), self.db.execute("SELECT rows, others FROM sums").fetchone()
        if kept is not None and kept != found:
            raise ConfigError.at(str(self.path), f"{CHANGED}; delete it to start over")

    def __enter__(self: Held) -> Held:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if isinstance(error, sqlite3.DatabaseError):
                raise error
            self.save()
            useless = self._whole or not self.done()
        except sqlite3.DatabaseError as fault:
            raise self._told(fault) from fault
        finally:
            self.db.close()
        if useless:
            self.path.unlink()

    def done(self) -> int:
        """Number of things that are done: the first ones."""
        return int(self.db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take down rows of the table `rows`. On disk within a second of work, or by `save`."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN")
        for row in rows:
            told = self.db.execute(f"INSERT INTO rows VALUES ({', '.join('?' * len(row))}) RETURNING *", row).fetchone()
            self._sum += _digest(told)
        if monotonic() - self._saved >= COMMIT_EVERY:
            self.save()

    def save(self) -> None:
        """Put all that was added on disk."""
        if self.db.in_transaction:
            self._keep_sums()
            self.db.execute("COMMIT")
        self._saved = monotonic()

    def finish(self) -> None:
        """Have the file deleted on leaving: all is done."""
        self._whole = True

    @contextmanager
    def wholly(self) -> Iterator[None]:
        """A block whose changes are taken down all or, where it raises, none."""
        self.db.execute("BEGIN")
        try:
            yield
        except BaseException:
            if self.db.in_transaction:  # a full disk has ended it
                self.db.execute("ROLLBACK")
            raise
        self._sum, self._others = sum(map(_digest, self.db.execute("SELECT * FROM rows"))), None
        self._keep_sums()
        self.db.execute("COMMIT")

    def _sums(self) -> tuple[str, str]:
        """The sums of the table `rows`, and of all others, which only `wholly` changes."""
        if self._others is None:
            tables = [table.split()[0] for table in self.TABLES if not table.startswith("rows ")]
            every = (self.db.execute(f"SELECT '{table}', * FROM {table}") for table in tables)
            self._others = sum(_digest(row) for rows in every for row in rows)
        return f"{self._sum % (1 << 64):016x}", f"{self._others % (1 << 64):016x}"

    def _keep_sums(self) -> None:
        self.db.execute("DELETE FROM sums")
        self.db.execute("INSERT INTO sums VALUES (?, ?)", self._sums())

    def _told(self, error: sqlite3.DatabaseError) -> Exception:
        """SQLite's error as one of the file."""
        code, place = getattr(error, "sqlite_errorcode", 0) & 0xFF, str(self.path)
        if code in _SYSTEM:
            return OSError(_SYSTEM[code], os.strerror(_SYSTEM[code]), place)
        if isinstance(error, sqlite3.IntegrityError):
            return error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ConfigError.at(place, "another process is at work on it; wait for it, or end it")
        if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            try:
                see_writable(self.path)
            except OSError as fault:  # which says why
                return fault
            return ConfigError.at(place, f"cannot be written ({error})")
        return ConfigError.at(place, f"is not what {self.WORK} left behind ({error}); delete it to start over")


_SYSTEM = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_READONLY: errno.EROFS,
}
"""The system's numbers of what SQLite says of a disk."""


def _digest(row: Sequence[Any]) -> int:
    """A number that follows from a row; the numbers of all rows are added up, in any order."""
    return int.from_bytes(hashlib.blake2b(repr(tuple(row)).encode(errors="surrogatepass"), digest_size=8).digest())
