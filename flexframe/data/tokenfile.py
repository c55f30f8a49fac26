"""Token files: one safetensors file that holds the codes of many images, and says of which model they are.

Tensors, for N images of at most K tokens, each of W codes (or, for a continuous quantizer, values):

    codes    N K W   the smallest of uint8, uint16, int32 that holds the codebook, or float32; 0 in absent slots
    lengths  N       int32, tokens present in each row, 1..K
    index    N       int64, the image's number in its input order: what its draws depend on
    id_ends  N       int64, where each id ends in `ids`
    ids      M       uint8, the ids one after the other, UTF-8
    labels   N       int32, each image's class, -1 for none; not there where no image has one

The metadata has `format`, under `flexframe` an `About` as JSON, and the file's seal (`flexframe.files`). Written and
read a row or a slice at a time.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flexframe.files import BLANK, check_seal, drop_parts, refuse_pointer, replaced, seal
from flexframe_registry import Config, ConfigError, TokenSpec

FORMAT = "flexframe-tokens/1"
MAX_ABOUT = 1 << 20
SLICE = 4096
"""Rows looked at together in a check."""
DTYPES = {"U8": "<u1", "U16": "<u2", "I32": "<i4", "I64": "<i8", "F32": "<f4"}
SHAPES = {"codes": 3, "lengths": 1, "index": 1, "id_ends": 1, "ids": 1}
LABELS = {"labels": 1}


class About(Config):
    """The description that a token file gives of itself: enough to know which model reads it, and how it came about."""

    model: str
    """The model as `flexframe.load` takes it."""
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")
    """`flexframe.models.fingerprint.fingerprint` of the model."""
    length: int = Field(ge=1)
    """The most tokens of an image that the model has."""
    dim: int = Field(ge=1)
    """Values of a token."""
    codebooks: int = Field(ge=1)
    """Codes of a token."""
    codebook_size: int | None = Field(ge=1)
    """Entries of a codebook; null for continuous tokens."""
    image_size: tuple[int, int]
    """Height and width in pixels that the images were brought to."""
    preprocessing: dict[str, Any]
    """How."""
    seed: int
    lengths: dict[str, Any]
    """The rule by which each image got its length."""
    flexframe: str
    """The version that wrote the file."""
    precision: str = "float32"
    """The floating type that the model computed in: near the border between two codes, another gives another id."""
    prefixes: bool = True
    """Whether the first tokens of an image are its tokens at that length too; false where it was encoded for its own
    length."""
    source: dict[str, Any] | None = None
    """The data source, with its settings, whose images these are, all of them in its order; null for other images."""
    class_names: tuple[str, ...] = ()
    """What the classes are called, where their source says so."""
    images: dict[str, Any] | None = None
    """The inventory of the source's images when they were encoded; null for other images, and in files of before."""
    mean: tuple[float, ...] | None = None
    """Of continuous tokens of a source, the mean of each value over all that are present."""
    deviation: tuple[float, ...] | None = None
    """Of the same, the deviation."""

    later = frozenset({"mean", "deviation"})

    @property
    def spec(self) -> TokenSpec:
        """The widths of its tokens."""
        return TokenSpec(self.length, self.dim, self.codebooks, self.codebook_size)

    @property
    def width(self) -> int:
        """Codes, or values, of a token."""
        return self.dim if self.codebook_size is None else self.codebooks

    @property
    def dtype(self) -> str:
        """The type of `codes`, by safetensors' name."""
        if self.codebook_size is None:
            return "F32"
        return "U8" if self.codebook_size <= 1 << 8 else "U16" if self.codebook_size <= 1 << 16 else "I32"


# --- writing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One image's tokens: `codes` of shape (length, width)."""

    index: int
    id: str
    codes: np.ndarray
    label: int | None = None


def write(path: Path, about: About, rows: Callable[[], Iterable[Row]]) -> tuple[int, int]:
    """Write a token file atomically, row by row, and give the numbers of rows and of tokens.

    Args:
        rows: gives all rows, in order; it is asked several times, so that none need be held.
    """
    count = tokens = longest = letters = 0
    labelled = False
    for row in rows():
        labelled |= row.label is not None
        count, tokens, letters = count + 1, tokens + len(row.codes), letters + len(row.id.encode())
        longest = max(longest, len(row.codes))
    code = np.dtype(DTYPES[about.dtype])

    def padded() -> Iterator[bytes]:
        for row in rows():
            whole = np.zeros((longest, about.width), code)
            whole[: len(row.codes)] = row.codes
            yield whole.tobytes()

    def ends() -> Iterator[bytes]:
        end = 0
        for row in rows():
            end += len(row.id.encode())
            yield struct.pack("<q", end)

    def labels() -> Iterator[bytes]:
        for row in rows():
            yield struct.pack("<i", -1 if row.label is None else row.label)

    streams = [  # the widest types first, so that each begins where it is aligned
        ("index", "I64", [count], (struct.pack("<q", row.index) for row in rows())),
        ("id_ends", "I64", [count], ends()),
        ("lengths", "I32", [count], (struct.pack("<i", len(row.codes)) for row in rows())),
        *([("labels", "I32", [count], labels())] if labelled else []),
        ("codes", about.dtype, [count, longest, about.width], padded()),
        ("ids", "U8", [letters], (row.id.encode() for row in rows())),
    ]
    text = json.dumps(about.deciding(), sort_keys=True, ensure_ascii=False)
    drop_parts(path)
    with replaced(path) as part:
        _write_safetensors(part, streams, {"format": FORMAT, "flexframe": text, **BLANK})
        seal(part)
    return count, tokens


Stream = tuple[str, str, list[int], Iterator[bytes]]


def _write_safetensors(path: Path, streams: list[Stream], metadata: dict[str, str]) -> None:
    """The format's layout: the header's length, the header, the tensors in a row."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, dtype, shape, _ in streams:
        start, end = end, end + int(np.prod(shape)) * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, chunks in streams:
            for chunk in chunks:
                file.write(chunk)
            if file.tell() != 8 + len(text) + header[name]["data_offsets"][1]:
                raise ValueError(f"the rows changed while {name!r} was written; write the file again")


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rows:
    """A slice of a token file, on the CPU. `codes` are int64 or float32, as long as the file's longest sequence."""

    codes: Tensor
    lengths: Tensor
    index: Tensor
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A whole token file in memory, its codes in the file's own type."""

    codes: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    """-1 where an image has none."""


class TokenFile:
    """A token file, open for reading. What the header says is checked here, each row when it is read.

    Raises:
        ConfigError: no such file, a truncated or foreign one, tensors that do not fit each other or the metadata.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise self._error("there is no such file")
        refuse_pointer(self.path)
        try:
            file: Any = safe_open(self.path, framework="np")
            self._slices: dict[str, Any] = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise self._error(f"is not a whole safetensors file ({error}); encode the images again") from None
        self.about = self._about(metadata)
        self.count, self.longest = self._shapes()

    def __len__(self) -> int:
        return self.count

    def rows(self, start: int, stop: int) -> Rows:
        """Rows start..stop-1, checked: lengths, token ids, names. Reads no others.

        Raises:
            ConfigError: a row is not what the file says of it.
        """
        stop = min(stop, self.count)
        lengths = self._read("lengths", start, stop).astype(np.int64)
        if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= self.longest:
            raise self._error(f"rows {start}..{stop - 1} have lengths {lengths.min()}..{lengths.max()}, not within "
                              f"1..{self.longest}; encode the images again")  # fmt: skip
        codes = self._codes(start, stop, lengths)
        index = self._read("index", start, stop).astype(np.int64)
        return Rows(codes, torch.from_numpy(lengths), torch.from_numpy(index), self._ids(start, stop))

    def batches(self, size: int) -> Iterator[Rows]:
        """Read the rows, `size` at a time."""
        for start in range(0, self.count, size):
            yield self.rows(start, start + size)

    def ids(self) -> Iterator[str]:
        """Read the ids, in order, without the codes."""
        for start in range(0, self.count, SLICE):
            yield from self._ids(start, min(start + SLICE, self.count))

    def table(self) -> Table:
        """Read codes, lengths and labels of the whole file, checked, for training, which takes them in any order.

        Raises:
            ConfigError: a row is not what the file says of it.
        """
        self.check()
        labels = np.full(self.count, -1, np.int64)
        if "labels" in self._slices:
            labels = self._read("labels", 0, self.count).astype(np.int64)
            if labels.min() < -1:
                raise self._error(f"has a label of {labels.min()}; labels are -1 for none, else 0 or more")
        return Table(self._read("codes", 0, self.count), self._read("lengths", 0, self.count).astype(np.int64), labels)

    def check(self) -> None:
        """Read every row once, so that what is wrong is told before anything is done with the first."""
        for _ in self.batches(max(1, min(SLICE, (1 << 22) // (self.longest * self.about.width)))):
            pass
        check_seal(self.path, "encode the images again")  # last, for the rows say more of what is wrong

    # --- within --------------------------------------------------------------------------------------------------

    def _error(self, text: str) -> ConfigError:
        return ConfigError.at(str(self.path), text)

    def _about(self, metadata: dict[str, str]) -> About:
        if metadata.get("format", "").startswith("flexframe-packed/"):
            raise self._error(f"is packed; flexframe unpack {self.path} -o tokens.safetensors gives the token file")
        if metadata.get("format") != FORMAT:
            held = f"format {metadata['format']!r}" if "format" in metadata else "no format"
            raise self._error(f"is no token file of this version: its metadata names {held}, not {FORMAT!r}")
        text = metadata.get("flexframe", "")
        if len(text) > MAX_ABOUT:
            raise self._error(f"its metadata has {len(text)} characters; at most {MAX_ABOUT} are read")
        try:
            raw = json.loads(text)
        except ValueError as error:
            raise self._error(f"its metadata cannot be read ({error}); encode the images again") from None
        return About.read(raw, str(self.path))

    def _shapes(self) -> tuple[int, int]:
        """The number of rows and the longest sequence, where all tensors agree on them."""
        shapes = {name: tuple(each.get_shape()) for name, each in self._slices.items()}
        wanted = SHAPES | LABELS if "labels" in shapes else SHAPES
        if shapes.keys() != wanted.keys() or any(len(shapes[name]) != n for name, n in wanted.items()):
            raise self._error(f"holds {_listed(shapes)}; a token file holds codes (N K W), lengths, index and "
                              "id_ends (N each), ids, and labels (N) or none")  # fmt: skip
        count, longest, width = shapes["codes"]
        wrong = [name for name in ("lengths", "index", "id_ends", "labels") if shapes.get(name, (count,)) != (count,)]
        types = {"codes": self.about.dtype, "lengths": "I32", "index": "I64", "id_ends": "I64", "ids": "U8"}
        types |= {"labels": "I32"}
        wrong += [f"{n} of type {s.get_dtype()}" for n, s in self._slices.items() if s.get_dtype() != types[n]]
        if width != self.about.width or not count or not longest:
            wrong.append(f"codes of shape {shapes['codes']}")
        if wrong:
            raise self._error(f"its tensors do not fit each other or its metadata: {', '.join(wrong)}")
        if longest > self.about.length:
            raise self._error(f"has sequences of {longest} tokens; its model's have at most {self.about.length}")
        return count, longest

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        try:
            rows: np.ndarray = self._slices[name][start:stop]
            return rows
        except SafetensorError as error:
            raise self._error(f"cannot be read further ({error}); encode the images again") from None

    def _codes(self, start: int, stop: int, lengths: np.ndarray) -> Tensor:
        codes, size = self._read("codes", start, stop), self.about.codebook_size
        keep = (np.arange(self.longest) < lengths[:, None])[..., None]
        codes = np.where(keep, codes, 0).astype(np.float32 if size is None else np.int64)  # what is absent is not read
        if size is None:
            if not np.isfinite(codes).all():
                raise self._error(f"rows {start}..{stop - 1} hold values that are not finite; encode the images again")
        elif codes.size and not 0 <= codes.min() <= codes.max() < size:
            span = f"{codes.min()}..{codes.max()}"
            raise self._error(f"rows {start}..{stop - 1} hold token ids {span}; its model's are 0..{size - 1}")
        return torch.from_numpy(codes)

    def _ids(self, start: int, stop: int) -> list[str]:
        ends = self._read("id_ends", start, stop)
        first = int(self._read("id_ends", start - 1, start)[0]) if start else 0
        bounds, total = [first, *ends.tolist()], self._letters
        rising = all(a <= b for a, b in pairwise(bounds))
        if not rising or bounds[0] < 0 or bounds[-1] > total or (stop == self.count and bounds[-1] != total):
            raise self._error(f"the ids of rows {start}..{stop - 1} end out of order or out of place")
        letters = self._read("ids", first, bounds[-1]).tobytes()
        try:
            return [letters[a - first : b - first].decode() for a, b in pairwise(bounds)]
        except UnicodeDecodeError as error:
            raise self._error(f"an id of rows {start}..{stop - 1} is no UTF-8 ({error.reason})") from None

    @cached_property
    def _letters(self) -> int:
        return int(self._slices["ids"].get_shape()[0])


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in sorted(shapes.items())) or "nothing"
