"""Sources of image files: a folder, tar shards, or whichever of the two a path is."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import torch
from PIL import __version__ as pillow_version
from torch.utils.data import get_worker_info

from flexframe.data import tarfiles
from flexframe.data.images import COLOUR, SUFFIXES, BrokenImage, fit, read_image, to_tensor
from flexframe.data.source import Sample, Source
from flexframe.data.waiting import waiting
from flexframe.data.walk import walk
from flexframe.files import write_json
from flexframe.rng import Rng
from flexframe.store.hub import home
from flexframe_registry import ConfigError
from flexframe_standard.sources.facts import LARGEST, facts
from flexframe_standard.sources.facts import SUFFIXES as BESIDE
from flexframe_standard.sources.files_config import FilesConfig, FolderConfig, TarConfig

SHOWN = 5
"""Broken files that a remark names."""
THREADS = 4
CROP_SEED = 0
"""Crops are part of the data, whatever the seed of a run: what was precomputed of them fits every run."""


@dataclass(frozen=True, slots=True)
class Found:
    """The facts of an image before its pixels are read."""

    id: str
    shown: str
    """What an error calls it."""
    open: Callable[[], Path | BytesIO]
    label: int | None
    caption: str | None


class Files(Source):
    """Images in files, by number. What becomes of a file that cannot be read is the config's `broken`."""

    config: FilesConfig

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        self.left_out: tuple[int, ...] = ()
        """Numbers of the files that cannot be read, rising."""
        self._reasons: tuple[str, ...] = ()

    @abstractmethod
    def number(self) -> int:
        """Number of files, broken ones too."""

    @abstractmethod
    def name(self, number: int) -> str:
        """The id of the file of this number, whatever is wrong with it."""

    @abstractmethod
    def find(self, number: int) -> Found:
        """The file of this number. `BrokenImage` where what lies beside it cannot be read."""

    @abstractmethod
    def state(self) -> str:
        """A hash of where the files are, how large, and when they were written."""

    @property
    def crops(self) -> int:
        """Number of images that a file counts as."""
        return self.config.crops or 1

    def __len__(self) -> int:
        return (self.number() - len(self.left_out)) * self.crops

    def __getitem__(self, index: int) -> Sample:
        return self.samples([index])[0]

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        """A file is read once for all of its crops that are asked for in a row."""
        wrong = next((index for index in indices if not 0 <= index < len(self)), None)
        if wrong is not None:
            raise IndexError(f"there are {len(self)} images, numbered from 0; {wrong} is none of them")
        groups = [list(group) for _, group in groupby(indices, lambda index: index // self.crops)]
        if len(groups) < THREADS or get_worker_info() is not None:  # a worker is one of many as it is
            return [sample for group in groups for sample in self._read(group)]
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes and resizes without holding Python up
            return [sample for group in pool.map(self._read, groups) for sample in group]

    def _read(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of one file, by their indices."""
        whole = indices[0] // self.crops
        # the broken file at position i of `left_out` stands after left_out[i] - i whole ones
        skipped = bisect_right(range(len(self.left_out)), whole, key=lambda i: self.left_out[i] - i)
        image_file = self.find(whole + skipped)
        image = read_image(image_file.open(), image_file.shown, self.config.max_pixels)
        if self.config.crops is None:
            pixels = to_tensor(fit(image, self.size, self.config.resize))
            return [Sample(pixels, image_file.label, image_file.id, image_file.caption)] * len(indices)
        places = Rng(CROP_SEED, torch.tensor(indices)).uniform("data/crop", (2,)).tolist()
        return [
            Sample(
                to_tensor(fit(image, self.size, self.config.resize, (top, left))),
                image_file.label, f"{image_file.id}#{index % self.crops}", image_file.caption,
            )
            for index, (top, left) in zip(indices, places, strict=True)
        ]  # fmt: skip

    def protocol(self) -> Mapping[str, Any]:
        crop = "centre" if self.config.crops is None else f"{self.config.crops} at random places of each image"
        said = {"resize": self.config.resize, "crop": crop, "colour": COLOUR, "pillow": pillow_version}
        if self.left_out:
            named = [self.name(number) for number in self.left_out]
            of_them = hashlib.sha256("\0".join(named).encode()).hexdigest()[:16]
            left_out = {"count": len(named), "of": self.number(), "first": named[:SHOWN], "sha256": of_them}
            return {**said, "left out as broken": left_out}
        return said

    def remarks(self) -> Sequence[str]:
        if not self.left_out:
            return ()
        few, more = self._reasons[:SHOWN], len(self._reasons) - SHOWN
        told = [*few, f"... and {more:,} more"] if more > 0 else few
        count = f"{len(self.left_out):,} of {self.number():,}"
        return (f"{count} images of {self.config.path} cannot be read and were left out: {'; '.join(told)}",)

    def leave_out(self) -> None:
        """Read every file where the config says so, and leave out those that cannot be. What was found is kept in
        `$FLEXFRAME_HOME/broken`, and holds until a file is written or moved.

        Raises:
            ConfigError: no file at all can be read.
        """
        if self.config.broken == "refuse":
            return
        key = [self.state(), self.config.max_pixels, pillow_version]
        path = home() / "broken" / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
        try:
            broken = {int(number): reason for number, reason in json.loads(path.read_text(encoding="utf-8")).items()}
        except (FileNotFoundError, ValueError, AttributeError):
            broken = self._look_for_broken()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, broken)
        if len(broken) == self.number():
            text = (
                f"none of the {len(broken):,} images of {self.config.path!r} can be read; {next(iter(broken.values()))}"
            )
            raise ConfigError.at("path", text)
        self.left_out, self._reasons = tuple(sorted(broken)), tuple(broken[number] for number in sorted(broken))

    def _look_for_broken(self) -> dict[int, str]:
        def reason(number: int) -> str | None:
            try:
                file = self.find(number)
                read_image(file.open(), file.shown, self.config.max_pixels)
            except BrokenImage as error:
                return str(error)
            return None

        broken: dict[int, str] = {}
        with ThreadPoolExecutor(THREADS) as pool, waiting("looking for broken images", self.number()) as told:
            for start in range(0, self.number(), 64 * THREADS):  # so that few are on their way at a time
                numbers = range(start, min(start + 64 * THREADS, self.number()))
                why = zip(numbers, pool.map(reason, numbers), strict=True)
                broken |= {number: each for number, each in why if each is not None}
                told(numbers.stop)
        return broken


class Folder(Files):
    """See `FolderConfig`."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        self.root = Path(config.path).expanduser()
        if not self.root.is_dir():
            raise ConfigError.at("path", f"there is no folder {str(self.root)!r}")
        self.files = sorted(path for path in walk(self.root) if path.suffix.lower() in SUFFIXES)
        if not self.files:
            known = " ".join(sorted(SUFFIXES))
            raise ConfigError.at("path", f"no images under {str(self.root)!r}; looked for {known}")
        names = {p.relative_to(self.root).parts[0] for p in self.files if p.parent != self.root}
        self.classes = {name: i for i, name in enumerate(sorted(names))}
        """Class number by folder name, in sorted order; images directly in the root have no class."""
        self.leave_out()

    def class_names(self) -> Sequence[str]:
        """The folders' names, unless labels stand beside the images: those are numbers of other classes."""
        first = next((path for i, path in enumerate(self.files) if i not in self.left_out), self.files[0])
        label, _ = facts(lambda suffix: _beside(first, suffix), str(first.with_suffix("")))
        return tuple(self.classes) if label is None else ()

    def number(self) -> int:
        return len(self.files)

    def name(self, number: int) -> str:
        return self.files[number].relative_to(self.root).as_posix()

    def find(self, number: int) -> Found:
        path = self.files[number]
        label, caption = facts(lambda suffix: _beside(path, suffix), str(path.with_suffix("")))
        folder = path.relative_to(self.root).parts[0]
        label = self.classes.get(folder) if label is None else label
        return Found(self.name(number), str(path), lambda: path, label, caption)

    def state(self) -> str:
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for image in self.files:
            for path in (image, *(image.with_suffix(f".{suffix}") for suffix in BESIDE)):
                if path == image or path.is_file():
                    about = path.stat() if path.exists() else path.lstat()  # a link to nothing
                    told = (path.relative_to(self.root).as_posix(), about.st_size, about.st_mtime_ns)
                    digest.update(repr(told).encode())
        return digest.hexdigest()


class Tar(Files):
    """See `TarConfig`. Memory holds the names of the shards, and nothing of their samples."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        paths = tarfiles.shards(config.path)
        common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        self.names = [path.absolute().relative_to(common).with_suffix("").as_posix() for path in paths]
        with waiting("indexing shards", len(paths)) as told:
            self.shards = []
            for path in paths:
                self.shards.append(tarfiles.index(path))
                told(len(self.shards))
        self.stops = list(accumulate(shard.count for shard in self.shards))
        if not self.stops[-1]:
            raise ConfigError.at("path", f"no images in {config.path!r}; looked for {' '.join(sorted(SUFFIXES))}")
        self.leave_out()

    def number(self) -> int:
        return self.stops[-1]

    def _place(self, number: int) -> tuple[int, tarfiles.Row]:
        """The shard of a number, and the row in it."""
        at = bisect_right(self.stops, number)
        return at, self.shards[at].row(number - (self.stops[at - 1] if at else 0))

    def name(self, number: int) -> str:
        at, row = self._place(number)
        return self._name(at, row)

    def find(self, number: int) -> Found:
        at, row = self._place(number)
        shard = self.shards[at]
        label, caption = facts(lambda part: shard.read(row, part), f"{shard.shard}:{row.key}")

        def content() -> BytesIO:
            return BytesIO(shard.read(row, "image") or b"")

        return Found(self._name(at, row), shard.shown(row), content, label, caption)

    def _name(self, at: int, row: tarfiles.Row) -> str:
        """An id has its image's suffix, as a folder's has: what a picture was stored as moves numbers."""
        return f"{self.names[at]}/{row.key}.{row.suffix}"

    def state(self) -> str:
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(repr((str(shard.shard.resolve()), shard.stamp)).encode())
        return digest.hexdigest()

    def remarks(self) -> Sequence[str]:
        unused = sum(shard.unused for shard in self.shards)
        told = f"{unused:,} members of {self.config.path} belong to no image, or are of no use here" if unused else ""
        return (*super().remarks(), *([told] if told else []))


class Images(Source):
    """See `ImagesConfig`."""

    def __init__(self, config: FilesConfig, size: tuple[int, int]) -> None:
        super().__init__(config, size)
        folder = Path(config.path).expanduser().is_dir()
        fields = config.model_dump(exclude={"type"})
        self.files: Files = Folder(FolderConfig(**fields), size) if folder else Tar(TarConfig(**fields), size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return self.files[index]

    def protocol(self) -> Mapping[str, Any]:
        return self.files.protocol()

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        return self.files.samples(indices)

    def remarks(self) -> Sequence[str]:
        return self.files.remarks()

    def class_names(self) -> Sequence[str]:
        return self.files.class_names()


def _beside(path: Path, suffix: str) -> bytes | None:
    """The content of a file beside an image, which has its name and another suffix; None where there is none."""
    try:
        with path.with_suffix(f".{suffix}").open("rb") as file:
            return file.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenImage(f"cannot read {path.with_suffix(f'.{suffix}')}: {error.strerror}") from None
