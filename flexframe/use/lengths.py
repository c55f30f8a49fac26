"""Numbers of tokens that images get: one number, a number each, or what an allocator chooses."""

from __future__ import annotations

import csv
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexframe.files import sha256
from flexframe.models.allocator import Allocator
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.files import put, split_override
from flexframe_registry.kinds import AllocatorConfig
from flexframe_registry.slots import resolve


class Rule(ABC):
    """A rule by which images get their lengths."""

    @property
    def place(self) -> str:
        """The place that the lengths are from, as an error about all of them names it."""
        return "--lengths"

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The rule as plain data: equal where the lengths are."""

    def each(self, count: int) -> Iterator[tuple[int | str, int, str]] | None:
        """A length by number or id for each of `count` images, and its place for errors; None without a list."""
        return None

    @abstractmethod
    def lengths(
        self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], wanted: Sequence[int | None], rng: Rng
    ) -> Int[Tensor, " b"]:
        """The lengths of a batch; `wanted` is what `each` gave for it."""


@dataclass(frozen=True)
class Fixed(Rule):
    """The same for every image."""

    length: int

    def record(self) -> dict[str, Any]:
        return {"rule": "fixed", "length": self.length}

    def lengths(
        self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], wanted: Sequence[int | None], rng: Rng
    ) -> Int[Tensor, " b"]:
        return torch.full((len(images),), self.length)


class _Given(Rule):
    """A length each, taken down before the first image is read."""

    def lengths(
        self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], wanted: Sequence[int | None], rng: Rng
    ) -> Int[Tensor, " b"]:
        return torch.tensor(list(wanted))


@dataclass(frozen=True)
class Listed(_Given):
    """One for each image, in the order of the images."""

    numbers: tuple[int, ...]

    def record(self) -> dict[str, Any]:
        return {"rule": "listed", "sha256": hashlib.sha256(repr(self.numbers).encode()).hexdigest()}

    def each(self, count: int) -> Iterator[tuple[int | str, int, str]]:
        if len(self.numbers) != count:
            text = f"lists {len(self.numbers)} lengths for {count} images; give one number, or one for each"
            raise ConfigError.at("--lengths", text)
        yield from ((number, length, "--lengths") for number, length in enumerate(self.numbers))


@dataclass(frozen=True)
class Table(_Given):
    """A CSV file of `id,length`, in any order; a first line `id,length` is its heading."""

    path: Path
    most: int
    least: int = 1

    @property
    def place(self) -> str:
        return str(self.path)

    def record(self) -> dict[str, Any]:
        return {"rule": "table", "sha256": sha256(self.path)}

    def each(self, count: int) -> Iterator[tuple[int | str, int, str]]:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                for number, row in enumerate(csv.reader(file), 1):
                    place = f"{self.path}, line {number}"
                    if not row or (number == 1 and [cell.strip().lower() for cell in row] == ["id", "length"]):
                        continue
                    if len(row) != 2:
                        raise ConfigError.at(place, f"has {len(row)} columns, not the two of id,length")
                    yield row[0], whole(row[1], self.most, place, self.least), place
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError.at(str(self.path), f"is no CSV file in UTF-8 ({error})") from None


@dataclass(frozen=True)
class Chosen(Rule):
    """Lengths that an allocator chooses."""

    config: AllocatorConfig
    allocator: Allocator

    def record(self) -> dict[str, Any]:
        provider, rests_on = catalogue().of(self.config).provider, self.allocator.rests_on()
        told = {"rule": "chosen", "allocator": self.config.model_dump(mode="json"), "provider": provider}
        return {**told, **({"rests_on": dict(rests_on)} if rests_on else {})}

    def lengths(
        self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], wanted: Sequence[int | None], rng: Rng
    ) -> Int[Tensor, " b"]:
        chosen = self.allocator.choose(tokenizer, images, rng=rng)
        low, high, most = int(chosen.min()), int(chosen.max()), tokenizer.config.length
        if chosen.shape != (len(images),) or low < 1 or high > most:
            name, shape = self.config.type, tuple(chosen.shape)
            text = f"allocator {name!r} chose lengths {low}..{high} of shape {shape} for {len(images)} images"
            raise ValueError(f"{text}; they must be one each in 1..{most}")
        return chosen


def fewest(tokenizer: Tokenizer) -> int:
    """The fewest tokens that mean something: all of them, where a model was trained on no fewer."""
    budgets = tokenizer.config.budgets
    return budgets[0] if len(budgets) == 1 else 1


def whole(text: str, most: int, place: str, least: int = 1) -> int:
    """A length in least..most, read from text.

    Raises:
        ConfigError: it is none.
    """
    try:
        value = int(text)
    except ValueError:
        raise ConfigError.at(place, f"{text.strip()!r} is no whole number") from None
    if not 1 <= value <= most:
        raise ConfigError.at(place, f"a length of {value}; this model's are {least}..{most}")
    if value < least:
        raise ConfigError.at(place, f"a length of {value}; this model was trained at {most} alone: fewer are no image")
    return value


def read_lengths(text: str, most: int, place: str = "--lengths", least: int = 1) -> tuple[int, ...]:
    """`4,8,16` as numbers in least..most."""
    return tuple(whole(part, most, place, least) for part in text.split(","))


def read_rule(lengths: str | None, allocator: str | None, settings: Sequence[str], tokenizer: Tokenizer) -> Rule:
    """The rule that the command line names; every token where it names none.

    Args:
        lengths: `16`, `4,8,16`, or `@table.csv`.
        allocator: an allocator's name.
        settings: `key.path=value` of the allocator.

    Raises:
        ConfigError: both are given, or what is given is no rule of this model.
    """
    most, least = tokenizer.config.length, fewest(tokenizer)
    if lengths is not None and allocator is not None:
        raise ConfigError.at("--allocator", "chooses the lengths that --lengths gives; name one of the two")
    if allocator is not None:
        if least == most > 1:
            raise ConfigError.at("--allocator", f"chooses among lengths, and this model has one: {most}; leave it out")
        return _chosen(allocator, settings, tokenizer)
    if settings:
        raise ConfigError.at(settings[0], "is a setting of an allocator, and --allocator names none")
    if lengths is None:
        return Fixed(most)
    if lengths.startswith("@"):
        path = Path(lengths[1:]).expanduser()
        if not path.is_file():
            raise ConfigError.at("--lengths", f"there is no file {str(path)!r}")
        return Table(path, most, least)
    numbers = read_lengths(lengths, most, least=least)
    return Fixed(numbers[0]) if len(numbers) == 1 else Listed(numbers)


def _chosen(name: str, settings: Sequence[str], tokenizer: Tokenizer) -> Chosen:
    raw: dict[str, Any] = {"type": name}
    for setting in settings:
        key, value = split_override(setting)
        raw = put(raw, key.split("."), value)
    catalogue().get("allocator", name)
    config = resolve("allocator", raw)
    assert isinstance(config, AllocatorConfig)
    try:
        config.check(tokenizer.spec)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError.at(f"allocator {name!r}", str(error)) from None
    built = catalogue().build(config, tokenizer.spec)
    assert isinstance(built, Allocator)
    return Chosen(config, built.eval().to(tokenizer.device))
