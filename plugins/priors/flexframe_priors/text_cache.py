"""Embeddings of texts that were made before, by content, in one SQLite file an encoder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from flexframe.store.hub import home, not_kept
from flexframe_registry import ConfigError

TABLE = "CREATE TABLE IF NOT EXISTS texts (key BLOB PRIMARY KEY, vectors BLOB NOT NULL, pooled BLOB NOT NULL)"


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text's vectors, half as large as they were made: n e, and the whole's, of which there may be no numbers."""

    vectors: np.ndarray
    pooled: np.ndarray


class TextCache:
    """The embeddings of one encoder, which its `name` tells from others."""

    def __init__(self, name: str, width: int) -> None:
        self.width, place = width, home() / "texts"
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            place = Path(not_kept(str(home()), error.strerror or str(error)))
        self.path = place / f"{name}.sqlite"

    def read(self, texts: Sequence[str]) -> dict[str, Embedded]:
        """Those of these texts that are there.

        Raises:
            ConfigError: the file is broken.
        """
        found = {}
        with self._open() as db:
            for text in dict.fromkeys(texts):
                row = db.execute("SELECT vectors, pooled FROM texts WHERE key = ?", [_key(text)]).fetchone()
                if row is not None:
                    vectors, pooled = (np.frombuffer(each, np.float16) for each in row)
                    found[text] = Embedded(vectors.reshape(-1, self.width), pooled)
        return found

    def add(self, made: dict[str, Embedded]) -> None:
        """Keep these, too.

        Raises:
            ConfigError: the file is broken, or cannot be written.
        """
        rows = [(_key(text), each.vectors.tobytes(), each.pooled.tobytes()) for text, each in made.items()]
        with self._open() as db:
            db.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The file for one exchange: processes take turns."""
        try:
            db = sqlite3.connect(self.path, timeout=60)
            try:
                db.execute(TABLE)
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise ConfigError.at(str(self.path), f"cannot be used ({error}); delete it, and it is made anew") from None


def _key(text: str) -> bytes:
    return sha256(text.encode()).digest()
