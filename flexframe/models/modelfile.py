"""Model files of our own format: safetensors with the config, its kind and the sampling settings in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from flexframe.files import BLANK, check_seal, refuse_pointer, replaced
from flexframe.models import tensorfile
from flexframe.models.build import not_finite, told
from flexframe_registry import ConfigError, ModelConfig
from flexframe_registry.files import plain

FORMAT = "flexframe/1"

AGAIN = "fetch or train it again"
MAX_CONFIG = 1 << 20


def save(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    path: Path,
    *,
    sampling: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file atomically. `about` is kept beside the config (step, run, provenance).

    Raises:
        FloatingPointError: a weight is not finite; nothing is written.
        OSError: the disk does not take it.
    """
    wrong = not_finite(state)
    if wrong:
        raise FloatingPointError(f"{path} is not written, for {told(wrong)}")
    header = {
        "kind": config.kind,
        "config": config.model_dump(mode="json"),
        "sampling": dict(sampling or {}),
        "about": dict(about or {}),
    }
    metadata = {"format": FORMAT, "flexframe": json.dumps(header, sort_keys=True), **BLANK}
    with replaced(path) as part:
        tensorfile.write(part, state, metadata)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a model file; `ConfigError` says what is wrong with a broken or foreign one.

    Raises:
        ConfigError: the file is broken, was changed, or is of another format.
    """
    try:
        refuse_pointer(path)
        with safe_open(path, framework="pt") as file:
            check_seal(path, AGAIN)
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ConfigError.at(str(path), f"is not a whole safetensors file ({error}); {AGAIN}") from None
    return _header(metadata, path), state


def header_of(path: Path) -> dict[str, Any] | None:
    """A model file's header alone; None where the file is whole but not of our format."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return _header(metadata, path) if metadata.get("format") == FORMAT else None


def _header(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise ConfigError.at(str(path), f"is no flexframe model: its metadata names no format {FORMAT!r}")
    text = metadata.get("flexframe", "")
    if len(text) > MAX_CONFIG:
        raise ConfigError.at(str(path), f"its config has {len(text)} characters; at most {MAX_CONFIG} are read")
    try:
        header = plain(json.loads(text))
        whole = {name: dict(header[name]) for name in ("config", "sampling", "about")}
        return {"kind": str(header.get("kind", "tokenizer")), **whole}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        text = f"its metadata holds no whole config ({error}); {AGAIN}"
        raise ConfigError.at(str(path), text) from None
