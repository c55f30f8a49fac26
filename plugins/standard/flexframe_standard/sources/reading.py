"""The reading of images from files, by number, whatever holds the files."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import __version__ as pillow_version
from PIL.Image import Image
from torch.utils.data import get_worker_info

from flexframe.data.images import COLOUR, BrokenImage, fit, read_image, to_tensor
from flexframe.data.inventory import LOOKED, Inventory, ends, looked_at
from flexframe.data.source import Sample, Source
from flexframe.data.waiting import waiting
from flexframe.files import json_bytes
from flexframe.rng import Rng
from flexframe.store.hub import home, keep
from flexframe.threads import cores
from flexframe_registry import ConfigError
from flexframe_registry.files import read_json
from flexframe_standard.sources.files_config import FilesConfig

SHOWN = 5
"""Files that a remark names."""
THREADS = min(4, cores())
"""Threads that read, at the most; one processor is left with one."""
CROP_SEED = 0
"""Crops are part of the data, whatever the seed of a run: what was precomputed of them fits every run."""


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
    def open(self, number: int) -> tuple[Path | BytesIO, str]:
        """The file of this number, and what an error calls it. `BrokenImage` where there is nothing to read."""

    @abstractmethod
    def beside(self, number: int) -> tuple[int | None, str | None]:
        """Label and caption of the file of this number, as far as they are wanted. `BrokenImage` where they are not
        what they should be."""

    @abstractmethod
    def listed(self) -> Iterator[tuple[str, int, int]]:
        """Name, size and time of writing, in nanoseconds, of each file that images are read from."""

    def inventory(self) -> Mapping[str, Any]:
        """The inventory, with a look into some of the files, and at their labels, where they are wanted."""
        files, count = self._files(), self.number()
        contents, labels = hashlib.sha256(), hashlib.sha256()
        for number in looked_at(count):
            contents.update(self.name(number).encode())
            with suppress(BrokenImage, OSError):  # that it cannot be read shows in the hash
                for end in ends(self.open(number)[0]):
                    contents.update(end)
            if self.facts != "none":
                of = self._facts(number)[1] if self.facts == "captions" else self._label(number)
                labels.update(repr(of).encode())
        told = (
            {} if self.facts == "none" else {"captions" if self.facts == "captions" else "labels": labels.hexdigest()}
        )
        looked = {"contents": contents.hexdigest(), "whole": count <= LOOKED}
        return {**files.state(), "count": len(self), **told, **looked}

    def _files(self) -> Inventory:
        files = Inventory()
        for each in self.listed():
            files.add(*each)
        return files

    def _label(self, number: int) -> int | str | None:
        try:
            return self.beside(number)[0]
        except BrokenImage:
            return "cannot be read"

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
        if THREADS == 1 or len(groups) < THREADS or get_worker_info() is not None:  # a worker is one of many as it is
            return [sample for group in groups for sample in self._read(group)]
        with ThreadPoolExecutor(THREADS) as pool:  # Pillow decodes and resizes without holding Python up
            return [sample for group in pool.map(self._read, groups) for sample in group]

    def read_labels(self, indices: Sequence[int]) -> list[int | None]:
        with ThreadPoolExecutor(THREADS) as pool:
            return [label for label, _ in pool.map(lambda index: self._facts(self._number(index)), indices)]

    def read_captions(self, indices: Sequence[int]) -> list[Mapping[str, str]]:
        if self.facts not in ("all", "captions"):  # asked for by name, they are read whatever else is wanted
            reader = copy(self)
            reader.facts = "captions"
            return reader.read_captions(indices)
        with ThreadPoolExecutor(THREADS) as pool:
            told = pool.map(lambda index: self._facts(self._number(index))[1], indices)
            return [{"caption": caption} if caption else {} for caption in told]

    def _number(self, index: int) -> int:
        """The number of the file of an index."""
        whole = index // self.crops
        # the broken file at position i of `left_out` stands after left_out[i] - i whole ones
        return whole + bisect_right(range(len(self.left_out)), whole, key=lambda i: self.left_out[i] - i)

    def _read(self, indices: Sequence[int]) -> list[Sample]:
        """Samples of one file, by their indices."""
        number = self._number(indices[0])
        image = read_image(*self.open(number), self.config.max_pixels)
        (label, caption), name = self._facts(number), self.name(number)
        if self.config.crops is None:
            pixels = to_tensor(self._fit(image, name))
            return [Sample(pixels, label, name, caption)] * len(indices)
        places = Rng(CROP_SEED, torch.tensor(indices)).uniform("data/crop", (2,)).tolist()
        return [
            Sample(
                to_tensor(self._fit(image, name, (top, left))),
                label, f"{name}#{index % self.crops}", caption,
            )
            for index, (top, left) in zip(indices, places, strict=True)
        ]  # fmt: skip

    def _fit(self, image: Image, name: str, place: tuple[float, float] | None = None) -> Image:
        if self.config.resize != "none":
            return fit(image, self.size, self.config.resize, place)
        if (image.height, image.width) != self.size:
            own, wanted = f"{image.height} x {image.width}", f"{self.size[0]} x {self.size[1]}"
            raise ConfigError.at("resize", f"is none, and {name} of {self.config.path} is {own} pixels, not {wanted}")
        return image

    def _facts(self, number: int) -> tuple[int | None, str | None]:
        try:
            label, caption = self.beside(number)
            if label is not None and self.config.classes is not None and label >= len(self.config.classes):
                text = f"{self.name(number)} has label {label}; `classes` names {len(self.config.classes)}, from 0"
                raise BrokenImage(text)
        except BrokenImage as error:
            if self.facts != "any" and self.config.broken == "refuse":
                raise
            self.notes[number] = str(error)  # by file
            return None, None
        return label, caption

    def own_size(self) -> tuple[int, int]:
        image = read_image(*self.open(self._number(0)), self.config.max_pixels)
        return image.height, image.width

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
        told = []
        if self.left_out:
            count = f"{len(self.left_out):,} of {self.number():,}"
            few = _few(self._reasons)
            told.append(f"{count} images of {self.config.path} cannot be read and were left out: {few}")
        if self.notes:
            few = _few([self.notes[number] for number in sorted(self.notes)])
            told.append(f"{len(self.notes):,} images of {self.config.path} count as without a label: {few}")
        return tuple(told)

    def leave_out(self) -> None:
        """Read every file where the config says so, and leave out those that cannot be. What was found is kept in
        `$FLEXFRAME_HOME/broken`, and holds until a file is written or moved.

        Raises:
            ConfigError: no file at all can be read.
        """
        if self.config.broken == "refuse":
            return
        where = str(Path(self.config.path).expanduser().absolute())
        key = [where, self._files().state(), self.config.max_pixels, pillow_version]
        name = f"broken/{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
        try:
            broken = {int(number): reason for number, reason in read_json(home() / name).items()}
        except ValueError:
            broken = self._look_for_broken()
            keep(name, json_bytes(broken))
        if len(broken) == self.number():
            text = (
                f"none of the {len(broken):,} images of {self.config.path!r} can be read; {next(iter(broken.values()))}"
            )
            raise ConfigError.at("path", text)
        self.left_out, self._reasons = tuple(sorted(broken)), tuple(broken[number] for number in sorted(broken))

    def _look_for_broken(self) -> dict[int, str]:
        def reason(number: int) -> str | None:
            try:
                read_image(*self.open(number), self.config.max_pixels)
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


def _few(reasons: Sequence[str]) -> str:
    more = [f"... and {len(reasons) - SHOWN:,} more"] if len(reasons) > SHOWN else []
    return "; ".join([*reasons[:SHOWN], *more])
