"""A whole data source as tokens, once: what a prior trains on. In constant memory, and from where it stopped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch

from flexframe.data.source import Sample, Source
from flexframe.data.tokenfile import DTYPES, About, Row, write
from flexframe.models.fingerprint import fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.use.journal import COMMIT_EVERY
from flexframe.use.lengths import Fixed
from flexframe_registry import ConfigError


@dataclass(frozen=True)
class Precomputed:
    """What a precomputation came to."""

    path: Path
    count: int
    resumed: int
    """How many images were done before this run."""
    labelled: bool


def precompute_tokens(
    tokenizer: Tokenizer,
    source: Source,
    out: Path,
    *,
    model: str,
    seed: int = 0,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Precomputed:
    """Encode every image of a source, in full, to the token file `out`, with its label.

    What is done is kept in `<out>.part` until all is; started again with the same arguments, it goes on, and the file
    is the same to the byte. An image draws by its number in the source, whatever batch it is in.

    Args:
        model: the name that the file gives for the model.
        progress: told how many images are done, and of how many.
    """
    if out.exists():
        raise ConfigError.at(str(out), "is there already; delete it or choose another -o")
    if not out.parent.is_dir():
        raise ConfigError.at(str(out), f"there is no folder {str(out.parent)!r}; make it first")
    about = _about(tokenizer, source, model, seed)
    dtype, count = DTYPES[about.dtype], len(source)
    with Ledger(out.with_name(f"{out.name}.part"), {**about.model_dump(mode="json"), "count": count}) as ledger:
        resumed = ledger.done()
        progress(resumed, count)
        for numbers, samples in loaded(source, range(resumed, count), batch_size):
            images = torch.stack([sample.image for sample in samples]).to(tokenizer.device).float() / 255
            rng = Rng(seed, torch.tensor(numbers, device=tokenizer.device))
            codes = tokenizer.encode(images, rng=rng).codes.cpu().numpy().astype(dtype)
            rows = zip(numbers, samples, codes, strict=True)
            ledger.add((n, sample.id, sample.label, each.tobytes()) for n, sample, each in rows)
            progress(numbers[-1] + 1, count)
        ledger.save()
        write(out, about, lambda: ledger.rows(dtype, about.width))
        labelled = ledger.labelled()
        ledger.finish()
    return Precomputed(out, count, resumed, labelled)


class Ledger:
    """The tokens so far, in one SQLite file beside the output. One process at a time may hold it."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._whole, self._saved = path, False, monotonic()
        text = json.dumps(settings, sort_keys=True)
        try:
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None)
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("BEGIN EXCLUSIVE")
            self._db.execute("CREATE TABLE IF NOT EXISTS settings (value TEXT NOT NULL)")
            rows = "rows (number INTEGER PRIMARY KEY, id TEXT NOT NULL, label INTEGER, codes BLOB NOT NULL)"
            self._db.execute(f"CREATE TABLE IF NOT EXISTS {rows}")
            before = self._db.execute("SELECT value FROM settings").fetchone()
            if before is None:
                self._db.execute("INSERT INTO settings VALUES (?)", [text])
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise ConfigError.at(str(path), "another process is at work on it; wait for it, or end it") from None
            raise ConfigError.at(str(path), f"cannot be written ({error})") from None
        except sqlite3.DatabaseError as error:
            told = f"is not what a precomputation left behind ({error}); delete it to start over"
            raise ConfigError.at(str(path), told) from None
        if before is not None and before[0] != text:
            self._db.close()
            was = json.loads(before[0])
            differ = [name for name in settings if settings[name] != was.get(name)]
            told = "; ".join(f"{name} was {was.get(name)!r} and is {settings[name]!r}" for name in differ)
            raise ConfigError.at(str(path), f"was begun otherwise: {told}; repeat that command, or delete this file")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()
        nothing = self._whole or not self.done()
        self._db.close()
        if nothing:
            self.path.unlink()

    def done(self) -> int:
        """How many images are done: the first ones."""
        return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def labelled(self) -> bool:
        """Whether any image has a label."""
        return bool(self._db.execute("SELECT count(label) FROM rows").fetchone()[0])

    def add(self, rows: Iterable[tuple[int, str, int | None, bytes]]) -> None:
        """Take down number, id, label and codes. On disk within a second, or by `save`."""
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?)", rows)
        if monotonic() - self._saved >= COMMIT_EVERY:
            self.save()

    def save(self) -> None:
        """Put all that was added on disk."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        self._saved = monotonic()

    def finish(self) -> None:
        """All is done: on leaving, the file is deleted."""
        self._whole = True

    def rows(self, dtype: str, width: int) -> Iterator[Row]:
        """The images' tokens, in order."""
        for number, name, label, codes in self._db.execute("SELECT number, id, label, codes FROM rows ORDER BY number"):
            yield Row(number, name, np.frombuffer(codes, dtype).reshape(-1, width), label)


def _about(tokenizer: Tokenizer, source: Source, model: str, seed: int) -> About:
    spec = tokenizer.spec.tokens
    return About(
        model=model,
        fingerprint=fingerprint(tokenizer),
        length=spec.length,
        dim=spec.dim,
        codebooks=spec.codebooks,
        codebook_size=spec.codebook_size,
        image_size=tokenizer.config.image_size,
        preprocessing=dict(source.protocol()),
        seed=seed,
        lengths=Fixed(spec.length).record(),
        flexframe=version("flexframe"),
        source=source.config.model_dump(mode="json"),
        class_names=tuple(source.class_names()),
    )


def loaded(source: Source, rows: range, size: int) -> Iterator[tuple[Sequence[int], Sequence[Sample]]]:
    """Batches of samples of a range; while one is encoded, the next is read."""
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Sequence[Sample]] | None = pool.submit(source.samples, parts[0]) if parts else None
        for i, part in enumerate(parts):
            assert waiting is not None
            samples = waiting.result()
            waiting = pool.submit(source.samples, parts[i + 1]) if i + 1 < len(parts) else None
            yield part, samples
