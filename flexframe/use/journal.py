"""The work that an encoding has done so far, in one SQLite file beside its output: killed at any moment, it goes on
from there.

The file also holds the list of images, so that a directory of any size is sorted, counted and searched for names that
occur twice on disk and not in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from flexframe.data.inventory import Inventory
from flexframe.data.tokenfile import Row
from flexframe.files import Journal
from flexframe.use.inputs import Entry
from flexframe_registry import ConfigError


def counted(entries: Iterable[Entry], inventory: Inventory) -> Iterator[Entry]:
    """The entries, which an inventory takes in as they pass."""
    for entry in entries:
        inventory.add(entry.place(), entry.size, entry.stamp)
        yield entry


class ImageJournal(Journal):
    """Images in order, and the tokens of those that are done, or why there are none."""

    TABLES = (
        "about (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "found (argument INTEGER, id TEXT, path TEXT, start INTEGER, size INTEGER, problem TEXT)",
        "images (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, path TEXT, start INTEGER, size INTEGER, "
        "problem TEXT, wanted INTEGER)",
        "rows (number INTEGER PRIMARY KEY, codes BLOB, error TEXT)",
    )
    WORK = "an encoding"

    # --- what is to be done --------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any] | None:
        """The settings that `fill` was given; None where not one image was done, so that they bind nothing."""
        if not self.done():
            return None
        settings = self.db.execute("SELECT value FROM about WHERE key = 'settings'").fetchone()
        return None if settings is None else json.loads(settings[0])

    def inventory(self) -> Mapping[str, Any]:
        """The inventory of the images that were taken down; empty in a journal of before."""
        row = self.db.execute("SELECT value FROM about WHERE key = 'inventory'").fetchone()
        inventory: Mapping[str, Any] = {} if row is None else json.loads(row[0])
        return inventory

    def fill(self, entries: Iterable[Entry], settings: Mapping[str, Any]) -> None:
        """Take down all images, in the order of their input and then of their id; wholly or not at all.

        Raises:
            ConfigError: two images have one id.
        """
        inventory, db = Inventory(), self.db
        with self.wholly():
            for table in ("about", "found", "images"):
                db.execute(f"DELETE FROM {table}")
            rows = ((e.argument, e.id, e.path, e.offset, e.size, e.problem) for e in counted(entries, inventory))
            db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?)", rows)
            twice = db.execute(
                "SELECT id, min(path), max(path) FROM found GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 1"
            ).fetchone()
            if twice is not None:
                name, one, other = twice
                text = f"two images have this id: {one} and {other}; an input that is a folder or a quoted pattern "
                raise ConfigError.at(name, text + "keeps the subfolders in the ids, else encode them apart")
            db.execute(
                "INSERT INTO images SELECT row_number() OVER (ORDER BY argument, id) - 1, id, path, start, size, "
                "problem, NULL FROM found ORDER BY argument, id"
            )
            db.execute("DELETE FROM found")
            db.execute("INSERT INTO about VALUES ('settings', ?)", [json.dumps(settings, sort_keys=True)])
            db.execute("INSERT INTO about VALUES ('inventory', ?)", [json.dumps(inventory.state())])

    def want(self, lengths: Iterable[tuple[int | str, int, str]], place: str = "--lengths") -> None:
        """Lengths for single images, by number or by id, each with the place to name in an error; one for every image.
        `place` is that of all of them.

        Given before the first image is encoded, wholly or not at all.

        Raises:
            ConfigError: an image that is not there, that is named twice, or that has no length.
        """
        db = self.db
        with self.wholly():
            db.execute("UPDATE images SET wanted = NULL WHERE wanted IS NOT NULL")
            for key, length, where in lengths:
                column = "number" if isinstance(key, int) else "id"
                image = db.execute(f"SELECT number, wanted FROM images WHERE {column} = ?", [key]).fetchone()
                if image is None:
                    raise ConfigError.at(where, f"there is no image {key!r} among the inputs")
                if image[1] is not None:
                    raise ConfigError.at(where, f"image {key!r} has a length already")
                db.execute("UPDATE images SET wanted = ? WHERE number = ?", [length, image[0]])
            missing = db.execute("SELECT id FROM images WHERE wanted IS NULL ORDER BY number LIMIT 1").fetchone()
            if missing is not None:
                raise ConfigError.at(place, f"gives no length for image {missing[0]!r}; each image needs one")

    def __len__(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM images").fetchone()[0])

    # --- what is done --------------------------------------------------------------------------------------------

    def pending(self, size: int) -> Iterator[list[tuple[int, Entry, int | None]]]:
        """Number, image and wanted length of those still to be done, `size` at a time; more may be done meanwhile."""
        start = self.done()
        while True:
            images = self.db.execute(
                "SELECT number, id, path, start, size, problem, wanted FROM images WHERE number >= ? "
                "ORDER BY number LIMIT ?",
                [start, size],
            ).fetchall()
            if not images:
                return
            yield [(n, Entry(0, id_, path, at, long, 0, why), want) for n, id_, path, at, long, why, want in images]
            start += len(images)

    def put(self, rows: Iterable[tuple[int, np.ndarray | None, str]]) -> None:
        """Take down codes by image number, or why there are none."""
        self.add((number, None if codes is None else codes.tobytes(), error or None) for number, codes, error in rows)

    def rows(self, dtype: str, width: int) -> Iterator[Row]:
        """The encoded images, in order."""
        query = "SELECT number, id, codes FROM rows JOIN images USING (number) WHERE codes IS NOT NULL ORDER BY number"
        for number, name, codes in self.db.execute(query):
            yield Row(number, name, np.frombuffer(codes, dtype).reshape(-1, width))

    def broken(self) -> Iterator[str]:
        """The reasons of the images that were put aside, in order."""
        for (error,) in self.db.execute("SELECT error FROM rows WHERE error IS NOT NULL ORDER BY number"):
            yield error
