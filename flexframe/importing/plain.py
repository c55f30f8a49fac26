"""Plain data from files of strangers: JSON, YAML and Python literals, bounded in size and depth before they are parsed.

Parsing builds mappings, lists, text, numbers, booleans and None, and nothing else; no name in a file is ever looked up.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from flexframe.files import refuse_pointer
from flexframe_registry import ConfigError

MAX_CONFIG = 1 << 20
"""Characters of a config; published ones have about ten thousand."""
MAX_DEPTH = 64
"""Brackets, or levels of indentation, within each other."""


def parse(text: str, where: str) -> Any:
    """Parse JSON or a Python literal, as configs inside of a checkpoint's metadata are.

    Raises:
        ConfigError: it is neither, or too long or too deep.
    """
    check_bounds(text, where)
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ConfigError.at(where, f"is neither JSON nor a Python literal ({_one_line(error)})") from None


def read_config(path: Path) -> dict[str, Any]:
    """Read a `.json`, `.yaml` or `.yml` file that holds a mapping.

    Raises:
        ConfigError: it holds something else, or is too long or too deep.
    """
    refuse_pointer(path)
    size = path.stat().st_size
    if size > MAX_CONFIG:
        raise ConfigError.at(str(path), f"has {size:,} bytes; a config has at most {MAX_CONFIG:,}, so this is none")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError.at(str(path), f"is not text ({_one_line(error)})") from None
    check_bounds(text, str(path))
    try:
        raw = json.loads(text) if path.suffix == ".json" else YAML(typ="safe", pure=True).load(text)
    except (ValueError, YAMLError, RecursionError) as error:
        raise ConfigError.at(str(path), f"cannot be read: {_one_line(error)}") from None
    if not isinstance(raw, dict):
        raise ConfigError.at(str(path), f"holds {type(raw).__name__}, not a mapping")
    settings: dict[str, Any] = plain(raw, str(path))
    return settings


def check_bounds(text: str, where: str) -> None:
    """Refuse text that is too long or too deep, before a parser meets it.

    Raises:
        ConfigError: it is.
    """
    if len(text) > MAX_CONFIG:
        raise ConfigError.at(where, f"has {len(text):,} characters; a config has at most {MAX_CONFIG:,}")
    depth, quote, escaped = 0, "", False
    for sign in text:
        if quote:
            if escaped:
                escaped = False
            elif sign == "\\":
                escaped = True
            elif sign in (quote, "\n"):  # an apostrophe of plain YAML text ends with its line at the latest
                quote = ""
        elif sign in "\"'":
            quote = sign
        elif sign in "[{(":
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError.at(where, f"nests more than {MAX_DEPTH} brackets; no config does")
        elif sign in "]})":
            depth -= 1
    indent = max((len(line) - len(line.lstrip(" ")) for line in text.splitlines()), default=0)
    if indent > 8 * MAX_DEPTH:
        raise ConfigError.at(where, f"is indented by {indent}; no config nests so deep")


def plain(value: Any, where: str) -> Any:
    """The value with every mapping a dict of text keys.

    Raises:
        ConfigError: something in it is no plain data.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError.at(where, f"has the key {key!r}, which is no text")
        return {key: plain(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, f"{where}.{i}") for i, inner in enumerate(value)]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigError.at(where, f"holds {type(value).__name__}, which is no plain data")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{error}".split())[:200]
