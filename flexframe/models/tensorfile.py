"""Safetensors files written tensor by tensor: beside the tensors that are there, no memory but for one of them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flexframe.files import BLANK, seal_place

KINDS = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Types by the format's names, in the order in which the library lays tensors out: each is aligned by itself."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Write a file as the library does, to the byte, and hash it on the way. Metadata with `BLANK` are sealed.

    Returns:
        the file's sha256 in hexadecimal digits; of a sealed one that which its seal holds.

    Raises:
        OSError: the disk does not take it.
        KeyError: a type that the format has not.
    """
    ranks = {kind: rank for rank, kind in enumerate(KINDS)}
    names = sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for name in names:
        value = tensors[name]
        stop = start + value.numel() * value.element_size()
        header[name] = {"dtype": KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    beginning = struct.pack("<Q", len(text)) + text
    digest = hashlib.sha256(beginning)
    with path.open("wb") as file:
        file.write(beginning)
        for name in names:
            data = content(tensors[name])
            digest.update(data)
            file.write(data)
        if metadata and BLANK.items() <= metadata.items():
            file.seek(8 + seal_place(text))
            file.write(digest.hexdigest().encode())
    return digest.hexdigest()


def content(value: Tensor) -> memoryview:
    """The bytes of a tensor, copied only where it is not on the CPU or not contiguous."""
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
