"""Sources of images in tables: Parquet files, and data sets of the library `datasets`."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from flexframe.data.images import BrokenImage
from flexframe.data.tarfiles import files_of
from flexframe.extras import needed
from flexframe.files import refuse_pointer
from flexframe.store.hub import home
from flexframe_registry import ConfigError
from flexframe_standard.sources.reading import Files
from flexframe_standard.sources.tables_config import DatasetsConfig, ParquetConfig, TableConfig

GROUPS = 4
"""Row groups that are held, each with the bytes of its images."""


class Table(Files):
    """Images in rows, by number."""

    config: TableConfig

    def __init__(self, config: TableConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        if config.labels in ("files", "folders"):
            raise ConfigError.at("labels", f"is {config.labels!r}; rows of a table have theirs in a column, or none")

    @abstractmethod
    def row(self, number: int) -> Mapping[str, Any]:
        """The row of this number: the columns that `settle` has kept."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the classes, where the table itself says them."""

    def settle(self, columns: Sequence[str]) -> None:
        """See which columns there are.

        Raises:
            ConfigError: none of the images'; a label's or caption's that was named and is none.
        """
        config, known = self.config, ", ".join(columns) or "none"
        if config.image not in columns:
            raise ConfigError.at("image", f"{config.path} has no column {config.image!r}; it has: {known}")
        for name, column in (("label", config.label), ("caption", config.caption)):
            if column is not None and column not in columns and name in config.model_fields_set:
                raise ConfigError.at(name, f"{config.path} has no column {column!r}; it has: {known}")
        self.label = config.label if config.label in columns and config.labels != "none" else None
        self.caption = config.caption if config.caption in columns else None
        self.kept = [each for each in (config.image, self.label, self.caption) if each is not None]

    def class_names(self) -> Sequence[str]:
        return self.config.classes or tuple(self.names())

    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        held, name = self.row(number)[self.config.image], f"{self.config.path}, {self.name(number)}"
        content = held.get("bytes") if isinstance(held, Mapping) else held
        if not isinstance(content, bytes):
            told = f"is {type(held).__name__}, not bytes"
            if isinstance(held, Mapping) and held.get("path"):
                told = f"names a file ({held['path']}), and files beside a table are not followed"
            raise BrokenImage(f"cannot read image {name}: column {self.config.image!r} {told}")
        return BytesIO(content), name

    def beside(self, number: int) -> tuple[int | None, str | None]:
        if self.facts == "none" or (self.facts not in ("all", "captions") and self.label is None):
            return None, None
        row = self.row(number)
        caption = None if self.caption is None else row[self.caption]
        label = None if self.facts == "captions" else self._number_of(row, number)
        if self.facts not in ("all", "captions"):
            caption = None
        if not isinstance(caption, str | None):
            told = f"caption {str(caption)[:40]!r} is {type(caption).__name__}, and no text; name another column"
            raise BrokenImage(f"{self.config.path}, {self.name(number)}: {told}, or caption=null for none")
        return label, caption

    def _number_of(self, row: Mapping[str, Any], number: int) -> int | None:
        said = None if self.label is None else row[self.label]
        if said is None or (isinstance(said, int) and said == -1):  # the hub's for splits whose labels are kept back
            return None
        if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
            return said
        if isinstance(said, str) and self.config.classes is not None and said in self.config.classes:
            return self.config.classes.index(said)
        told = "none of `classes`" if self.config.classes is not None else "a name; number them by `classes`"
        wrong = told if isinstance(said, str) else "no whole number from 0"
        raise BrokenImage(f"{self.config.path}, {self.name(number)}: label {said!r} is {wrong}")


class Parquet(Table):
    """See `ParquetConfig`."""

    def __init__(self, config: ParquetConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        needed("pyarrow", "parquet", "source 'parquet'")
        self.files = _parquet_files(config.path)
        self._fresh()
        first = self._file(0).schema_arrow
        self.settle(first.names)
        self.told: Sequence[str] = _class_names(first.metadata or {}, self.label)
        about = [self._file(i).metadata for i in range(len(self.files))]
        groups = [
            (i, g, each.row_group(g).num_rows) for i, each in enumerate(about) for g in range(each.num_row_groups)
        ]
        self.groups = [(i, g) for i, g, rows in groups if rows]
        self.ends: list[int] = list(accumulate(rows for _, _, rows in groups if rows))
        if not self.groups:
            raise ConfigError.at("path", f"{config.path} holds no row")
        self.firsts: list[int] = [0, *accumulate(each.num_rows for each in about)]
        self.leave_out()

    def _fresh(self) -> None:
        """Open nothing yet, in this process."""
        self._open, self._held, self._lock = dict[int, Any](), OrderedDict[int, list[Mapping[str, Any]]](), Lock()

    def _file(self, number: int) -> Any:
        """An open file.

        Raises:
            ConfigError: it is broken.
        """
        if number not in self._open:
            path, arrow = self.files[number], needed("pyarrow.parquet", "parquet", "source 'parquet'")
            refuse_pointer(path)
            try:
                self._open[number] = arrow.ParquetFile(path)
            except (ValueError, OSError) as error:  # pyarrow's own are among these
                why = " ".join(str(error).split())[:120]
                raise ConfigError.at("path", f"{path} is no whole Parquet file ({why}); fetch it again") from None
        return self._open[number]

    def number(self) -> int:
        return self.firsts[-1]

    def name(self, number: int) -> str:
        file = bisect_right(self.firsts, number) - 1
        return f"{self.files[file].name}#{number - self.firsts[file]:06d}"

    def names(self) -> Sequence[str]:
        return self.told

    def row(self, number: int) -> Mapping[str, Any]:
        place = bisect_right(self.ends, number)
        with self._lock:  # several threads read; a group is decoded once
            rows = self._held.pop(place, None)
            if rows is None:
                file, group = self.groups[place]
                table = self._file(file).read_row_group(group, columns=self.kept, use_threads=False)
                rows = table.to_pylist()
            self._held[place] = rows
            if len(self._held) > GROUPS:
                self._held.popitem(last=False)
        return rows[number - (self.ends[place - 1] if place else 0)]

    def listed(self) -> Iterator[tuple[str, int, int]]:
        for path in self.files:
            about = path.stat()
            yield path.name, about.st_size, about.st_mtime_ns

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_open", "_held", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._fresh()  # files are opened by each process itself


def _parquet_files(pattern: str) -> list[Path]:
    """The files of a path: itself, what it is a pattern of, or all below a folder, sorted.

    Raises:
        ConfigError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(each for each in path.rglob("*.parquet") if each.is_file())
        if not found:
            raise ConfigError.at("path", f"there is no file .parquet under {str(path)!r}")
        return found
    return files_of(pattern, "Parquet file", ".parquet")


def _class_names(metadata: Mapping[bytes, bytes], label: str | None) -> Sequence[str]:
    """Names of the classes as the hub's data sets keep them in a table's metadata."""
    with suppress(ValueError, KeyError, TypeError):
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
        return tuple(map(str, names))
    return ()


class Datasets(Table):
    """See `DatasetsConfig`."""

    config: DatasetsConfig

    def __init__(self, config: DatasetsConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        library = needed("datasets", "datasets", "source 'datasets'")
        self.rows = _opened(library, config)
        self.settle(self.rows.column_names)
        feature = self.rows.features[config.image]
        if isinstance(feature, library.Image):
            self.rows = self.rows.cast_column(config.image, library.Image(decode=False))
        labels = None if self.label is None else self.rows.features[self.label]
        self.told = tuple(labels.names) if isinstance(labels, library.ClassLabel) else ()
        self.rows = self.rows.select_columns(self.kept).with_format(None)
        if not len(self.rows):
            raise ConfigError.at("path", f"{config.path} holds no row")
        self.leave_out()

    def number(self) -> int:
        return len(self.rows)

    def name(self, number: int) -> str:
        return f"{self.config.split}#{number:06d}"

    def names(self) -> Sequence[str]:
        return self.told

    def row(self, number: int) -> Mapping[str, Any]:
        return dict(self.rows[number])

    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        held = self.row(number)[self.config.image]
        if isinstance(held, Mapping) and held.get("bytes") is None and held.get("path"):
            return Path(held["path"]), str(held["path"])  # which the library wrote, of a folder of images
        return super().open(number)

    def listed(self) -> Iterator[tuple[str, int, int]]:
        for each in self.rows.cache_files:
            path = Path(each["filename"])
            about = path.stat()
            yield path.name, about.st_size, 0  # copied into a cache, whose times say nothing

    def protocol(self) -> Mapping[str, Any]:
        named = {"path": self.config.path, "name": self.config.name, "split": self.config.split}
        version = self.rows.info.version
        return {**super().protocol(), "data set": {**named, "revision": self.config.revision, "version": str(version)}}


def _opened(library: Any, config: DatasetsConfig) -> Any:
    """The data set of a config.

    Raises:
        ConfigError: there is none, or it cannot be read or fetched.
    """
    path = Path(config.path).expanduser()
    kept = path.is_dir() and any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
    try:
        if not kept:
            place = str(path.absolute()) if path.exists() else config.path
            if config.first is not None:
                return _streamed(library, config, place, config.first)
            return library.load_dataset(place, config.name, split=config.split, revision=config.revision)
        if config.first is not None:
            raise ConfigError.at("first", f"is {config.first}, and {config.path!r} is whole on this disk: leave it out")
        held = library.load_from_disk(str(path))
        if not isinstance(held, library.DatasetDict):
            return held
        if config.split not in held:
            raise ConfigError.at("split", f"there is no {config.split!r}; there are: {', '.join(held)}")
        return held[config.split]
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        why = " ".join(str(error).split())[:200]
        raise ConfigError.at("path", f"{config.path!r} cannot be read as a data set ({why})") from None


def _streamed(library: Any, config: DatasetsConfig, place: str, count: int) -> Any:
    """The first rows of a data set as a table of its own, read from a stream where they are not kept from before."""
    asked = json.dumps([place, config.name, config.split, config.revision, count])
    kept = home() / "streamed" / hashlib.sha256(asked.encode()).hexdigest()[:32]
    if not kept.is_dir():
        rows = library.load_dataset(place, config.name, split=config.split, revision=config.revision, streaming=True)
        rows = rows.take(count) if rows.features is not None else rows.take(count)._resolve_features()
        images = [name for name, feature in rows.features.items() if isinstance(feature, library.Image)]
        for name in images:
            rows = rows.cast_column(name, library.Image(decode=False))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=kept.parent) as folder:
            found = library.Dataset.from_generator(
                lambda: iter(rows), features=rows.features, cache_dir=f"{folder}/cache"
            )
            found.save_to_disk(f"{folder}/whole")
            with suppress(OSError):  # another process was faster
                os.replace(f"{folder}/whole", kept)
    return library.load_from_disk(str(kept))
