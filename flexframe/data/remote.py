"""Files of other machines, fetched once and kept on this disk: by https and http, and by S3 where s3fs is installed.

Nothing is fetched but from hosts that are named, and no redirect leads to another.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from itertools import repeat
from pathlib import Path
from shutil import copyfileobj
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from flexframe.data.waiting import waiting
from flexframe.extras import needed
from flexframe.files import replaced
from flexframe_registry import ConfigError

SCHEMES = ("https", "http", "s3")
AT_ONCE = 4
"""Files that are fetched at the same time."""
SILENCE = 60.0
"""Seconds without a byte after which a connection counts as lost."""
PAUSES = (1.0, 4.0)
"""Seconds before each further try of what may pass: a lost connection, a server that is busy."""
_PASSES = frozenset({408, 425, 429, 500, 502, 503, 504})


def is_address(path: str) -> bool:
    """Tell whether a path is an address that can be fetched."""
    return urlsplit(path).scheme in SCHEMES


def refuse_host(address: str, hosts: Collection[str]) -> None:
    """Refuse an address on a host that is not named; of S3 that is the bucket.

    Raises:
        ConfigError: it is none of the `hosts`.
    """
    host = urlsplit(address).hostname or ""
    if host not in hosts:
        text = f"{shown(address)!r} is on {host!r}, which `hosts` does not name; if it is meant, add hosts: [{host}]"
        raise ConfigError.at("path", text)


def shown(address: str) -> str:
    """An address without what may be a secret: its query and a password in it."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def place(address: str, folder: Path) -> Path:
    """Place of the copy of an address below a folder: under its host, by its path."""
    parts = urlsplit(address)
    names = [unquote(name) for name in parts.path.split("/") if name]
    if not names or any(name in (".", "..") or re.search(r"[/\\\0]", name) for name in names):
        raise ConfigError.at("path", f"{shown(address)!r} is no address of a file")
    return folder.joinpath(parts.netloc.rpartition("@")[2].replace(":", "_"), *names)


def fetched(addresses: Sequence[str], hosts: Collection[str], folder: Path) -> list[Path]:
    """Copies of files in their order, of which those are fetched that are not in the folder. A copy is whole or absent,
    and is never looked up again: what is to be fetched anew is deleted.

    Raises:
        ConfigError: a host that is not named, or a file that cannot be fetched.
    """
    for address in addresses:
        refuse_host(address, hosts)
    places = [place(address, folder) for address in addresses]
    if any(urlsplit(address).scheme == "s3" for address in addresses):
        needed("s3fs", "s3", "An address of S3")
    missing = [each for each in zip(addresses, places, strict=True) if not each[1].is_file()]
    if missing:
        with waiting("fetching shards", len(missing)) as told, ThreadPoolExecutor(AT_ONCE) as pool:
            for done, _ in enumerate(pool.map(_fetch, *zip(*missing, strict=True), repeat(hosts)), 1):
                told(done)
    return places


def _fetch(address: str, to: Path, hosts: Collection[str]) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with _alone(to):
        for pause in (*PAUSES, None):
            if to.is_file():  # another process was faster
                return
            try:
                with _opened(address, hosts) as (stream, size), replaced(to) as part, part.open("wb") as file:
                    copyfileobj(stream, file, 1 << 20)
                    if size is not None and file.tell() != size:
                        raise ConnectionError(f"{file.tell():,} of {size:,} bytes came")
            except (OSError, HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                if pause is None or not _may_pass(error):
                    text = f"{shown(address)!r} cannot be fetched ({_why(error)})"
                    raise ConfigError.at("path", f"{text}; what came whole is in {to.parent}") from None
                time.sleep(pause)


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    """Have one process of this machine fetch a file, while others wait for it."""
    try:
        import fcntl
    except ImportError:  # not on Windows: there two may fetch the same, and the later one's copy stays
        yield
        return
    held = to.with_name(f".{to.name}.lock")
    with held.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                held.unlink()


class _Named(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the hosts that are named."""

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = hosts

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            refuse_host(newurl, self.hosts)
            if urlsplit(newurl).scheme not in ("https", req.type):
                text = (
                    f"{shown(req.full_url)!r} leads to {shown(newurl)!r}, which is less safe; name that if it is meant"
                )
                raise ConfigError.at("path", text)
        except ConfigError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(address: str, hosts: Collection[str]) -> Iterator[tuple[IO[bytes], int | None]]:
    """A stream of an address, and how many bytes it is to give, where that is said."""
    if urlsplit(address).scheme == "s3":
        files = needed("s3fs", "s3", "An address of S3").S3FileSystem()
        parts = urlsplit(address)
        with files.open(f"{parts.netloc}{parts.path}", "rb") as stream:
            yield stream, stream.size
        return
    opener = urllib.request.build_opener(_Named(hosts))
    with opener.open(urllib.request.Request(address, headers={"User-Agent": "flexframe"}), timeout=SILENCE) as answer:
        size = answer.headers.get("Content-Length")
        yield answer, int(size) if size is not None and size.isdigit() else None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, urllib.error.HTTPError):
        return error.code in _PASSES
    return isinstance(error, urllib.error.URLError | ConnectionError | TimeoutError | HTTPException)


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    told = error.reason if isinstance(error, urllib.error.URLError) else error
    return " ".join(str(told).split())[:160] or type(error).__name__
