"""Token files in the forms of other programs: npz, Parquet, JSON lines, WebDataset, and two for training priors."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flexframe.data.tokenfile import TokenFile
from flexframe.extras import needed
from flexframe.files import replaced
from flexframe_registry import ConfigError

ROWS = 1024
"""Rows at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image's tokens: as many as it has; a number each where a token is one code, else a list."""

    id: str
    label: int | None
    codes: np.ndarray

    def tokens(self) -> list[Any]:
        """Plain numbers."""
        codes = self.codes
        plain: list[Any] = (codes[:, 0] if codes.shape[1] == 1 and codes.dtype.kind == "i" else codes).tolist()
        return plain

    def one_code(self, form: str) -> list[int]:
        """Token ids of a model of one codebook.

        Raises:
            ConfigError: its tokens are several codes, or values.
        """
        if self.codes.shape[1] != 1 or self.codes.dtype.kind != "i":
            raise ConfigError.at("--form", f"{form!r} is of one code a token; take parquet, jsonl, npz or tar")
        return [int(code) for code in self.codes[:, 0]]


def rows(file: TokenFile) -> Iterator[Row]:
    """Rows of a token file, in order."""
    labels = file.table().labels
    place = 0
    for some in file.batches(ROWS):
        for codes, length, name in zip(some.codes.numpy(), some.lengths.tolist(), some.ids, strict=True):
            label = int(labels[place])
            yield Row(name, None if label < 0 else label, codes[:length])
            place += 1


def npz(file: TokenFile, to: Path) -> None:
    """`codes` (N K W, absent slots 0), `lengths`, `labels` (-1 for none), `ids` and, as JSON, `about`: read without
    pickles."""
    table = file.table()
    arrays: dict[str, Any] = {"codes": table.codes, "lengths": table.lengths, "labels": table.labels}
    with replaced(to) as part, part.open("wb") as out:
        np.savez_compressed(out, **arrays, ids=np.array(list(file.ids())), about=np.array(_about(file)))


def parquet(file: TokenFile, to: Path) -> None:
    """Columns `id`, `label` (null for none) and `tokens`, a list; the schema's metadata have `flexframe`, as JSON."""
    arrow: Any = needed("pyarrow", "parquet", "a token file as Parquet")
    writer: Any = needed("pyarrow.parquet", "parquet", "a token file as Parquet")
    about = file.about
    value = arrow.float32() if about.codebook_size is None else arrow.int32()
    tokens = arrow.list_(value if about.width == 1 and about.codebook_size is not None else arrow.list_(value))
    schema = arrow.schema([("id", arrow.string()), ("label", arrow.int32()), ("tokens", tokens)])
    schema = schema.with_metadata({"flexframe": _about(file)})
    with replaced(to) as part, writer.ParquetWriter(part, schema) as out:
        some: list[dict[str, Any]] = []
        for row in rows(file):
            some.append({"id": row.id, "label": row.label, "tokens": row.tokens()})
            if len(some) == ROWS:
                out.write_table(arrow.Table.from_pylist(some, schema=schema))
                some = []
        out.write_table(arrow.Table.from_pylist(some, schema=schema))


def jsonl(file: TokenFile, to: Path) -> None:
    """A line an image: `id`, `label` (null for none), `tokens`."""
    _lines(to, ({"id": row.id, "label": row.label, "tokens": row.tokens()} for row in rows(file)))


def class_jsonl(file: TokenFile, to: Path) -> None:
    """A line an image, `class_id` and `tokens`: what trainers of priors read whose tokens were made beforehand.

    Raises:
        ConfigError: an image without a label, or tokens of several codes.
    """

    def lines() -> Iterator[dict[str, Any]]:
        for row in rows(file):
            yield {"class_id": _class(row, "class-jsonl"), "tokens": row.one_code("class-jsonl")}

    _lines(to, lines())


def npy(file: TokenFile, to: Path) -> None:
    """`codes/N.npy` of shape (1, 1, K) and `labels/N.npy` of shape (1,), in the order of the file: the way in which a
    prior's training keeps codes that reads one file an image, with one view of each.

    Raises:
        ConfigError: the folder is there and not empty; an image without a label, or tokens of several codes.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError.at(str(to), "is there already and is not empty; name another folder with -o")
    for name in ("codes", "labels"):
        (to / name).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows(file)):
        np.save(to / "codes" / f"{number}.npy", np.array(row.one_code("npy"), np.int64)[None, None])
        np.save(to / "labels" / f"{number}.npy", np.array([_class(row, "npy")], np.int64))


def webdataset(file: TokenFile, to: Path) -> None:
    """A tar file of WebDataset's form: of each image `.npy` (its codes), `.json` (its id), and `.cls` where it has a
    label. The same tokens give the same bytes."""

    def add(out: tarfile.TarFile, name: str, content: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        out.addfile(member, io.BytesIO(content))

    with replaced(to) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as out:
        for number, row in enumerate(rows(file)):
            key, array = f"{number:09d}", io.BytesIO()
            np.save(array, row.codes)
            add(out, f"{key}.npy", array.getvalue())
            add(out, f"{key}.json", json.dumps({"id": row.id}, ensure_ascii=False).encode())
            if row.label is not None:
                add(out, f"{key}.cls", str(row.label).encode())


FORMS: Mapping[str, Callable[[TokenFile, Path], None]] = {
    "npz": npz, "parquet": parquet, "jsonl": jsonl, "tar": webdataset, "class-jsonl": class_jsonl, "npy": npy,
}  # fmt: skip
SUFFIXES = {".npz": "npz", ".parquet": "parquet", ".jsonl": "jsonl", ".tar": "tar"}
"""Forms by the end of a name, where none is given."""


def _about(file: TokenFile) -> str:
    return file.about.model_dump_json()


def _class(row: Row, form: str) -> int:
    if row.label is None:
        raise ConfigError.at("--form", f"{form!r} wants a class of each image, and {row.id} has none")
    return row.label


def _lines(to: Path, lines: Iterator[dict[str, Any]]) -> None:
    with replaced(to) as part, part.open("wb") as out:
        file: BinaryIO = out
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n")
