"""A whole data source as tokens, once: what a prior trains on. In constant memory, and from where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexframe.data.captions import every
from flexframe.data.inventory import refuse_changed
from flexframe.data.scale import Scale
from flexframe.data.source import Sample, Source
from flexframe.data.tokenfile import DTYPES, About, Row, write
from flexframe.files import Journal, refuse_other
from flexframe.lock import writes
from flexframe.models.fingerprint import fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Conditioner
from flexframe.rng import Rng
from flexframe.use.lengths import Fixed
from flexframe_registry import ConfigError, SourceConfig


@dataclass(frozen=True)
class Precomputed:
    """The outcome of a precomputation."""

    path: Path
    count: int
    resumed: int
    """How many images were done before this run."""
    labelled: bool


@writes("out")
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

    Raises:
        ConfigError: an output that is there, a part that was begun otherwise or with other images.
    """
    if out.exists():
        raise ConfigError.at(str(out), "is there already; delete it or choose another -o")
    out.parent.mkdir(parents=True, exist_ok=True)
    about = _about(tokenizer, source, model, seed)
    dtype, count = DTYPES[about.dtype], len(source)
    with TokenJournal(out.with_name(f"{out.name}.part")) as journal:
        journal.begin(about.deciding(), source.config)
        resumed = journal.done()
        progress(resumed, count)
        for numbers, samples in loaded(source, range(resumed, count), batch_size):
            images = torch.stack([sample.image for sample in samples]).to(tokenizer.device).float() / 255
            rng = Rng(seed, torch.tensor(numbers, device=tokenizer.device))
            codes = tokenizer.encode(images, rng=rng).codes.cpu().numpy().astype(dtype)
            rows = zip(numbers, samples, codes, strict=True)
            journal.add((n, sample.id, sample.label, each.tobytes()) for n, sample, each in rows)
            progress(numbers[-1] + 1, count)
        write(out, measured(about, journal.rows(dtype, about.width)), lambda: journal.rows(dtype, about.width))
        labelled = journal.labelled()
        journal.finish()
    return Precomputed(out, count, resumed, labelled)


@torch.no_grad()
def precompute_texts(
    conditioner: Conditioner,
    source: Source,
    *,
    batch_size: int = 256,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[int, int]:
    """Embed every caption of a source, in every form, by a frozen conditioner, which keeps what it has embedded; tells
    how many captions there are, and how many longer than it reads.

    Args:
        progress: told of how many images the captions are done, and of how many.

    Raises:
        ConfigError: the images have no captions, or there is no such encoder.
    """
    source.want("captions")
    count, captions, cut, most = len(source), 0, 0, conditioner.config.text().length
    for start in range(0, count, batch_size):
        rows = range(start, min(start + batch_size, count))
        texts = every(source, rows)
        if texts:
            conditioner(texts)
        captions, cut = captions + len(texts), cut + sum(conditioner.count(text) > most for text in texts)
        progress(rows.stop, count)
    if not captions:
        raise ConfigError.at("run.data", f"none of its {count:,} images has a caption; give data with captions")
    return captions, cut


class TokenJournal(Journal):
    """The tokens so far of a source's images, and the settings that they are made with."""

    TABLES = (
        "settings (value TEXT NOT NULL)",
        "rows (number INTEGER PRIMARY KEY, id TEXT NOT NULL, label INTEGER, codes BLOB NOT NULL)",
    )
    WORK = "a precomputation"

    def begin(self, settings: Mapping[str, Any], source: SourceConfig) -> None:
        """Take down the settings, with the inventory of the `images`; or, where images are done, see that all is the
        same.

        Raises:
            ConfigError: it was begun with others.
        """
        if self.done():
            before, remedy = json.loads(self.db.execute("SELECT value FROM settings").fetchone()[0]), "delete this file"
            was, now = ({**each, "images": None} for each in (before, settings))
            was["source"] = source.again(was.get("source"))
            refuse_other(self.path, "was begun otherwise", was, now, f"repeat that command, or {remedy}")
            images = before.get("images"), settings["images"]
            refuse_changed(self.path, "was begun with other images", *images, f"put them back, or {remedy}")
            return
        with self.wholly():
            self.db.execute("DELETE FROM settings")
            self.db.execute("INSERT INTO settings VALUES (?)", [json.dumps(settings, sort_keys=True)])

    def labelled(self) -> bool:
        """True where any image has a label."""
        return bool(self.db.execute("SELECT count(label) FROM rows").fetchone()[0])

    def rows(self, dtype: str, width: int) -> Iterator[Row]:
        """The images' tokens, in order."""
        for number, name, label, codes in self.db.execute("SELECT number, id, label, codes FROM rows ORDER BY number"):
            yield Row(number, name, np.frombuffer(codes, dtype).reshape(-1, width), label)


def measured(about: About, rows: Iterable[Row]) -> About:
    """Description of a file, with the mean and the deviation of its tokens where they are continuous."""
    if about.codebook_size is not None:
        return about
    scale = Scale(about.dim)
    for row in rows:
        scale.add(row.codes)
    return about.model_copy(update={"mean": scale.mean, "deviation": scale.deviation})


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
        precision=tokenizer.precision,
        prefixes=tokenizer.config.encoder.prefixes(),
        source=source.config.model_dump(mode="json"),
        class_names=tuple(source.class_names()),
        images=dict(source.inventory()),
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
