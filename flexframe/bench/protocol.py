"""Protocols of numbers, as data: hashes, versions, fingerprints, and the short ids under which numbers compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from flexframe_registry import ComponentConfig, catalogue
from flexframe_registry.config import is_place

SCHEMA = 2
UINT8_RULES = {
    "nearest": "originals are 8-bit as read; where a metric takes 8-bit reconstructions, values in [0, 1] are "
    "multiplied by 255 and rounded half to even",
    "down": "originals are 8-bit as read; where a metric takes 8-bit reconstructions, values in [0, 1] are multiplied "
    "by 255 and cut off",
}


def to_uint8(images: Tensor, rounding: str = "nearest") -> Tensor:
    """Images in [0, 1] as 8-bit values, by one of the `UINT8_RULES`; those that are 8-bit already as they are."""
    if images.dtype == torch.uint8:
        return images
    steps = images.float().clamp(0, 1) * 255
    return (steps.floor() if rounding == "down" else steps.round()).to(torch.uint8)


def _bytes(rows: Tensor) -> np.ndarray:
    array = np.ascontiguousarray(rows.detach().cpu().numpy())
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


class Digest:
    """A sha256 over a stream of tensors: type, shape without the batch axis, and values in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._shape: tuple[Any, ...] | None = None

    def add(self, batch: Tensor) -> None:
        """Take in rows.

        Raises:
            ValueError: rows of another type or shape than the first.
        """
        shape = (str(batch.dtype), *batch.shape[1:])
        if self._shape is None:
            self._shape = shape
            self._hash.update(repr(shape).encode())
        elif shape != self._shape:
            raise ValueError(f"a batch of {shape} in a stream of {self._shape}")
        self._hash.update(_bytes(batch).tobytes())

    def hex(self) -> str:
        """The hash of what was added so far, in hexadecimal digits."""
        return self._hash.hexdigest()


class Chain:
    """A hash over a stream of rows that can be put down and taken up again: each row's sha256 is taken after the one
    before it, and each row brings its type and shape."""

    def __init__(self, link: str = "") -> None:
        self.link = link

    def add(self, rows: Tensor) -> None:
        """Take in rows, one after the other."""
        head = repr((str(rows.dtype), *rows.shape[1:])).encode()
        for row in _bytes(rows):
            self.link = hashlib.sha256(self.link.encode() + head + row.tobytes()).hexdigest()


def short_id(record: Mapping[str, Any]) -> str:
    """The first 8 hexadecimal digits of the sha256 of a record's canonical JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def settings(config: BaseModel) -> dict[str, Any]:
    """A config without the fields that only say where a file lies: what is in the file is hashed elsewhere."""
    dumped, moving = config.model_dump(mode="json"), {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if is_place(field) or (name in getattr(config, "later", ()) and value == field.default):
            continue
        moving[name] = settings(value) if isinstance(value, BaseModel) else dumped[name]
    return moving


def providers(configs: Iterable[ComponentConfig]) -> list[str]:
    """The distributions, with versions, that provide these parts."""
    return sorted({catalogue().of(config).provider for config in configs})


def versions() -> dict[str, str]:
    """Versions of what every number passes through. Metrics add their own libraries to their own protocols."""
    return {"flexframe": version("flexframe"), "torch": torch.__version__, "numpy": np.__version__}
