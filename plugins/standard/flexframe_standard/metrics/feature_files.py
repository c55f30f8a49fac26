"""Features on disk: rows by an image's position while a run goes on, and the originals' features for later runs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexframe.files import replaced
from flexframe.store.hub import home, not_kept
from flexframe_registry.files import CHANGED

DIGEST = 16
"""Bytes of an image's hash."""
BLOCK = 4096
"""Rows that are held in memory at once."""
log = logging.getLogger(__name__)


def digests(images: UInt8[Tensor, "b c h w"]) -> UInt8[Tensor, "b 16"]:
    """The start of the sha256 of each image's shape and pixels."""
    shape = repr(tuple(images.shape[1:])).encode()
    hashes = [hashlib.sha256(shape + image.tobytes()).digest()[:DIGEST] for image in images.cpu().numpy()]
    return torch.from_numpy(np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(-1, DIGEST).copy())


class Rows:
    """Vectors of one width in a file, each with its CRC-32, addressed by position: to write a row again changes
    nothing."""

    def __init__(self, path: Path, width: int, dtype: Any = np.float32) -> None:
        self.path, self.width, self.dtype = path, width, np.dtype(dtype).newbyteorder("<")
        self._record = np.dtype([("row", self.dtype, (width,)), ("crc", "<u4")])

    def write(self, at: int, rows: Tensor) -> None:
        """Put rows at position `at` and after it.

        Raises:
            ValueError: rows of another width.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = rows.detach().cpu().numpy().astype(self.dtype)
        if data.shape[1:] != (self.width,):
            raise ValueError(
                f"rows of shape {data.shape[1:]} do not belong into {self.path}, whose width is {self.width}"
            )
        records = np.zeros(len(data), self._record)
        records["row"], records["crc"] = data, [zlib.crc32(row.tobytes()) for row in data]
        place = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)  # never cut off: another process may write to it too
        with os.fdopen(place, "r+b") as file:
            file.seek(at * self._record.itemsize)
            file.write(records.tobytes())

    def read(self, stop: int, start: int = 0) -> np.ndarray:
        """Rows `start` to `stop` - 1, mapped into memory and not held in it.

        Raises:
            ValueError: one is not as it was written.
        """
        records = np.memmap(self.path, self._record, "r", shape=(stop,))[start:]
        for number, record in enumerate(records, start):
            if zlib.crc32(record["row"].tobytes()) != record["crc"]:
                raise ValueError(f"{self.path}: row {number} {CHANGED}; delete this file's folder, and measure anew")
        rows: np.ndarray = records["row"]
        return rows

    def blocks(self, count: int) -> Iterator[Float[Tensor, "b d"]]:
        """The first `count` rows in float64, some thousands at a time."""
        rows = self.read(count)
        for start in range(0, count, BLOCK):
            yield torch.from_numpy(rows[start : start + BLOCK].astype(np.float64))


@dataclass(frozen=True, slots=True)
class _Found:
    file: Any
    row: int


class Cache:
    """Features of originals by what the images hold, in `$FLEXFRAME_HOME/features`: a safetensors file a set.

    `key` is all that moves a feature beside the image: another key is another set of files. A file that is damaged is
    told and left out, and written anew when its images come again.
    """

    def __init__(self, key: Mapping[str, Any]) -> None:
        self.text = json.dumps(key, sort_keys=True)
        self.name = hashlib.sha256(self.text.encode()).hexdigest()[:16]
        self.folder = home() / "features"
        self._rows: dict[bytes, _Found] = {}
        for path in sorted(self.folder.glob(f"{self.name}-*.safetensors")):
            try:
                self._open(path)
            except Exception as error:  # whatever is wrong with a file, its features can be computed
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                log.warning("%s is damaged (%s): delete it; its features are computed anew", path, reason)

    def _open(self, path: Path) -> None:
        file: Any = safe_open(path, "pt")  # its methods have no types
        facts = file.metadata() or {}
        if facts.get("key") != self.text:
            raise ValueError("it is another extractor's")
        hashes = file.get_tensor("images")
        if facts.get("sha256") != _sha256(hashes, _slices(file)):
            raise ValueError("its content does not have its hash")
        for row, image in enumerate(hashes.numpy()):
            self._rows[image.tobytes()] = _Found(file, row)

    def find(self, image: bytes) -> Float[Tensor, " d"] | None:
        """The features of the image with this hash."""
        place = self._rows.get(image)
        return None if place is None else place.file.get_slice("features")[place.row]

    def publish(self, images: np.ndarray, features: np.ndarray) -> list[Path]:
        """Keep those rows that no file holds yet, each image once, in files of `BLOCK` rows at most."""
        new, seen = [], set(self._rows)
        for row, image in enumerate(images):
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                new.append(row)
        starts = range(0, len(new), BLOCK)
        try:
            return [self._write(images[new[i : i + BLOCK]], features[new[i : i + BLOCK]]) for i in starts]
        except OSError as error:  # all is measured by now: to keep it is for later
            not_kept(str(home()), error.strerror or str(error))
            return []

    def _write(self, images: np.ndarray, features: np.ndarray) -> Path:
        tensors = {
            "images": torch.from_numpy(np.ascontiguousarray(images)),
            "features": torch.from_numpy(np.ascontiguousarray(features)),
        }
        facts = {"key": self.text, "sha256": _sha256(tensors["images"], [tensors["features"]])}
        content = hashlib.sha256(tensors["images"].numpy().tobytes()).hexdigest()[:16]
        path = self.folder / f"{self.name}-{content}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        with replaced(path) as part:
            save_file(tensors, part, metadata=facts)
        return path


def _slices(file: Any) -> Iterator[Tensor]:
    features = file.get_slice("features")
    count = features.get_shape()[0]
    for start in range(0, count, BLOCK):
        yield features[start : start + BLOCK]


def _sha256(images: Tensor, features: Any) -> str:
    digest = hashlib.sha256(images.numpy().tobytes())
    for block in features:
        digest.update(block.contiguous().numpy().tobytes())
    return digest.hexdigest()
