"""What a number rests on, as data: hashes, versions, fingerprints, and the short ids under which numbers compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexframe_registry import ComponentConfig, TokenizerConfig, catalogue

SCHEMA = 1
UINT8_RULE = (
    "originals are 8-bit as read; where a metric takes 8-bit reconstructions, values in [0, 1] are multiplied by 255 "
    "and rounded half to even"
)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as 8-bit values, by `UINT8_RULE`."""
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


class Digest:
    """A sha256 over a stream of tensors: type, shape without the batch axis, and values in order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._shape: tuple[Any, ...] | None = None

    def add(self, batch: Tensor) -> None:
        shape = (str(batch.dtype), *batch.shape[1:])
        if self._shape is None:
            self._shape = shape
            self._hash.update(repr(shape).encode())
        elif shape != self._shape:
            raise ValueError(f"a batch of {shape} in a stream of {self._shape}")
        array = np.ascontiguousarray(batch.detach().cpu().numpy())
        self._hash.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

    def hex(self) -> str:
        return self._hash.hexdigest()


def short_id(record: Mapping[str, Any]) -> str:
    """The first 8 hexadecimal digits of the sha256 of a record's canonical JSON."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def providers(configs: Iterable[ComponentConfig]) -> list[str]:
    """The distributions, with versions, that provide these parts."""
    return sorted({catalogue().of(config).provider for config in configs})


def parts(config: TokenizerConfig) -> list[ComponentConfig]:
    return [config.codec, config.encoder, config.quantizer, config.masker, config.decoder]


def versions() -> dict[str, str]:
    """Of what every number passes through. Metrics add their own libraries to their own protocols."""
    return {"flexframe": version("flexframe"), "torch": torch.__version__, "numpy": np.__version__}
