"""Sources of image files: a folder, tar shards, or whichever of them, or of `arrays` and `parquet`, a path is."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from flexframe.data import remote, tarfiles
from flexframe.data.images import NO_FILE, USUAL, BrokenImage, odd
from flexframe.data.leftout import LeftOut
from flexframe.data.source import Facts, Sample, Source
from flexframe.data.waiting import waiting
from flexframe.data.walk import walk
from flexframe.store.hub import home
from flexframe_registry import ConfigError
from flexframe_standard.sources.arrays import Arrays
from flexframe_standard.sources.facts import LARGEST, facts
from flexframe_standard.sources.files_config import ArraysConfig, FilesConfig, FolderConfig, TarConfig
from flexframe_standard.sources.reading import SHOWN, Files
from flexframe_standard.sources.tables import Parquet
from flexframe_standard.sources.tables_config import ParquetConfig

TRIED = 64
"""Files beside images that are looked into for a label; one that comes later is refused, not mixed in."""


class Folder(Files):
    """See `FolderConfig`."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        self.root = Path(config.path).expanduser()
        if not self.root.is_dir():
            raise ConfigError.at("path", f"there is no folder {str(self.root)!r}")
        beside, passed = set[str](), LeftOut()
        self.suffixes = set[str]()
        """Of the files that are no images: what is not here is looked for beside none."""
        self.files = []
        for path in walk(self.root):
            name = path.relative_to(self.root).as_posix()
            if passed.take(name):
                self.files.append(path)
                continue
            if path.suffix.lower() in (".cls", ".json"):
                beside.add(os.fspath(path))
            self.suffixes.add(path.suffix)
        self.files.sort()
        self.passed = passed.remarks(config.path)
        """Remarks on what is there and not among the files."""
        if not self.files:
            also = "".join(f"; {each}" for each in self.passed)
            text = f"no images under {str(self.root)!r}; looked for {USUAL} and the others of Pillow's{also}"
            raise ConfigError.at("path", text)
        first = self.files[0]
        self._below = len(first.as_posix()) - len(first.relative_to(self.root).as_posix())
        """Letters of each path that lead to the root."""
        self.leave_out()
        self.labels = config.labels or self._labels(beside)
        self.classes = self._classes() if self.labels == "folders" else {}
        """Class number by folder name; images directly in the root have no class."""
        if self.labels == "files":
            without = sum(1 for path in self.files if not _labelled(path, beside))
            if without and not config.labels:
                text = f"labels of {config.path} are those of the files beside images, which {without:,} images have "
                self.passed += (f"{text}not; names of folders are no labels then (labels: folders takes them)",)

    def _labels(self, beside: Set[str]) -> Literal["files", "folders"]:
        """Where labels are from: files, if any beside the first images that have one holds a label."""
        candidates = [path for path in self.files if _labelled(path, beside)]
        if any(os.fspath(path.with_suffix(".cls")) in beside for path in candidates):
            return "files"
        for path in candidates[:TRIED]:
            try:
                if facts(partial(_beside, path), str(path.with_suffix("")), "labels")[0] is not None:
                    return "files"
            except BrokenImage:
                continue
        return "folders"

    def _classes(self) -> dict[str, int]:
        gone = set(self.left_out)
        kept = [path.relative_to(self.root).parts for i, path in enumerate(self.files) if i not in gone]
        names = {parts[0] for parts in kept if len(parts) > 1}
        if self.config.classes is None:
            lost = {parts[0] for path in self.files if len(parts := path.relative_to(self.root).parts) > 1} - names
            if lost:
                text = f"classes of {self.config.path} of which no image can be read do not count"
                self.passed += (f"{text}: {', '.join(sorted(lost)[:SHOWN])}; `classes` keeps their numbers",)
            return {name: number for number, name in enumerate(sorted(names))}
        other = sorted(names - set(self.config.classes))
        if other:
            text = f"{other[0]!r} is a folder of {self.config.path!r} and none of them; name all, in their order"
            raise ConfigError.at("classes", text)
        return {name: number for number, name in enumerate(self.config.classes)}

    def class_names(self) -> Sequence[str]:
        """The folders' names, unless labels are those beside the images: numbers of other classes."""
        return self.config.classes or tuple(self.classes)

    def remarks(self) -> Sequence[str]:
        return (*self.passed, *super().remarks())

    def number(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return self.files[number].as_posix()[self._below :]

    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        return self.files[number], str(self.files[number])

    def beside(self, number: int) -> tuple[int | None, str | None]:
        path = self.files[number]
        try:
            label, caption = facts(partial(self._beside, path), os.path.splitext(path)[0], self._wanted())
        except BrokenImage:
            if self.labels == "files" or self.facts in ("all", "captions"):
                raise
            label = caption = None  # it holds no label, as those before it
        if self.labels == "files":
            return label, caption
        if self.config.labels is None and label is not None:
            text = f"{path.with_suffix('.json')} holds label {label}; labels before it are the names of folders"
            raise BrokenImage(f"{text}; set `labels: files` or `labels: folders` in the data")
        folder, within, _ = self.name(number).partition("/")
        return (self.classes.get(folder) if within and self.labels == "folders" else None), caption

    def _beside(self, path: Path, suffix: str) -> bytes | None:
        return _beside(path, suffix) if f".{suffix}" in self.suffixes else None

    def _wanted(self) -> Facts:
        """What is to be read of the files beside an image; no label where they are from elsewhere by the config."""
        whole = self.config.labels in (None, "files") or self.facts in ("all", "captions")
        return self.facts if whole else "none"

    def listed(self) -> Iterator[tuple[str, int, int]]:
        for number, path in enumerate(self.files):
            try:
                about = os.stat(path)
            except OSError:
                yield self.name(number), -1, 0  # a link to nothing, or gone meanwhile
            else:
                yield self.name(number), about.st_size, about.st_mtime_ns


class Tar(Files):
    """See `TarConfig`. Memory holds the names of the shards, and nothing of their samples."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        if config.labels == "folders":
            raise ConfigError.at("labels", "is 'folders'; images of shards have theirs in .cls or .json")
        paths = self._shards()
        common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        self.names = [path.absolute().relative_to(common).with_suffix("").as_posix() for path in paths]
        with waiting("indexing shards", len(paths)) as told:
            self.shards = []
            for path in paths:
                self.shards.append(tarfiles.index(path))
                told(len(self.shards))
        self.stops = list(accumulate(shard.count for shard in self.shards))
        if not self.stops[-1]:
            also = "".join(f"; {each}" for each in self._passed())
            raise ConfigError.at(
                "path", f"no images in {config.path!r}; looked for {USUAL} and the others of Pillow's{also}"
            )
        self.leave_out()

    def _shards(self) -> list[Path]:
        """The shards, fetched where the path is an address."""
        config = self.config
        if not isinstance(config, TarConfig) or not remote.is_address(config.path):
            return tarfiles.shards(config.path)
        kept = home() / "fetched" if config.cache is None else Path(config.cache).expanduser()
        return tarfiles.checked(remote.fetched(tarfiles.braces(config.path), config.hosts, kept))

    def number(self) -> int:
        return self.stops[-1]

    def _place(self, number: int) -> tuple[int, tarfiles.Row]:
        """The shard of a number, and the row in it."""
        at = bisect_right(self.stops, number)
        return at, self.shards[at].row(number - (self.stops[at - 1] if at else 0))

    def name(self, number: int) -> str:
        at, row = self._place(number)
        return self._name(at, row)

    def class_names(self) -> Sequence[str]:
        return self.config.classes or ()

    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        at, row = self._place(number)
        return BytesIO(self.shards[at].read(row, "image") or b""), self.shards[at].shown(row)

    def beside(self, number: int) -> tuple[int | None, str | None]:
        at, row = self._place(number)
        shard = self.shards[at]
        if self.config.labels == "none" and self.facts != "captions":
            return None, None
        return facts(lambda part: shard.read(row, part), f"{shard.shard}:{row.key}", self.facts)

    def _name(self, at: int, row: tarfiles.Row) -> str:
        """An id has its image's suffix, as a folder's has: what a picture was stored as moves numbers."""
        return f"{self.names[at]}/{row.key}.{row.suffix}"

    def listed(self) -> Iterator[tuple[str, int, int]]:
        for at, (name, shard) in enumerate(zip(self.names, self.shards, strict=True)):
            yield f"{at} {name}", *shard.stamp

    def remarks(self) -> Sequence[str]:
        return (*super().remarks(), *self._passed())

    def _passed(self) -> list[str]:
        """Remarks on what is there and not among the images."""
        unused, hidden, apart = (
            sum(counts) for counts in zip(*((s.unused, s.hidden, s.apart) for s in self.shards), strict=True)
        )
        told, path = [], self.config.path
        if unused:
            told.append(f"{unused:,} members of {path} belong to no image, or are of no use here")
        if hidden:
            told.append(f"{hidden:,} images of {path} are hidden (their name or a folder's begins with a dot, or is a "
                        "system's) and were left out")  # fmt: skip
        if apart:
            text = f"{apart:,} images of {path} stand apart from their labels or captions, for it is not sorted by name"
            told.append(f"{text}; they were brought together")
        return told


class Images(Source):
    """See `ImagesConfig`."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        path, fields = Path(config.path).expanduser(), config.model_dump(exclude={"type"})
        self.files: Files
        if path.is_dir():
            self.files = Folder(FolderConfig(**fields), size)
        elif path.suffix.lower() == ".npz":
            self.files = Arrays(ArraysConfig(**fields), size)
        elif path.suffix.lower() == ".parquet":
            self.files = Parquet(ParquetConfig(**fields), size)
        else:
            self.files = Tar(TarConfig(**fields), size)
        self.notes = self.files.notes

    def want(self, facts: Facts) -> None:
        super().want(facts)
        self.files.want(facts)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return self.files[index]

    def protocol(self) -> Mapping[str, Any]:
        return self.files.protocol()

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        return self.files.samples(indices)

    def read_labels(self, indices: Sequence[int]) -> Sequence[int | None] | None:
        return self.files.read_labels(indices)

    def read_captions(self, indices: Sequence[int]) -> Sequence[Mapping[str, str]]:
        return self.files.read_captions(indices)

    def inventory(self) -> Mapping[str, Any]:
        return self.files.inventory()

    def remarks(self) -> Sequence[str]:
        return self.files.remarks()

    def own_size(self) -> tuple[int, int]:
        return self.files.own_size()

    def class_names(self) -> Sequence[str]:
        return self.files.class_names()


def _labelled(path: Path, beside: Set[str]) -> bool:
    """True where a file that may hold a label is beside an image."""
    return any(os.fspath(path.with_suffix(suffix)) in beside for suffix in (".cls", ".json"))


def _beside(path: Path, suffix: str) -> bytes | None:
    """The content of a file beside an image, which has its name and another suffix; None where there is none."""
    place = path.with_suffix(f".{suffix}")
    try:
        if odd(place):
            raise BrokenImage(f"cannot read {place}: {NO_FILE}")
        with place.open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenImage(f"cannot read {place}: {error.strerror}") from None
