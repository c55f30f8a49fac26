"""Plain data from files and the command line: YAML 1.2, JSON with a checksum, `key.path=value`, one mapping laid on
another."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .errors import ConfigError
from .kinds import KINDS

log = logging.getLogger("flexframe")
SLOTS = frozenset(KINDS) | {"data"}
"""Fields whose bare name stands for a part of that type."""


SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
"""The beginning of a command or an address; of two letters at least, for `C:` is a drive."""
MAX_PIXELS = 89_478_485
"""256 MiB as RGB; Pillow's own limit, at which it begins to warn. At twice that it refuses."""
SHOWN = 80
"""Characters of a value that an error shows."""
LARGEST = 1 << 63
"""Bound of whole numbers in files."""
DEEPEST = 64
"""Levels of nesting in a file."""
MOST_VALUES = 100_000
"""Values of a file; aliases of YAML count each time."""


_WORDS = re.compile(r'(\w+): (?:([A-Za-z][\x20-\x22\x24-\x39\x3b-\x7e]*)(?<! )|"([\x20\x21\x23-\x5b\x5d-\x7e]*)")\n')
"""A setting on one line whose value is plain ASCII words: begun by a letter, without a colon, a hash or a space at its
end; or in double quotes, without a quote or a backslash."""
_OTHER = frozenset({"true", "false", "null"})
"""What looks like words in YAML 1.2, and is none."""


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 mapping from a file.

    Raises:
        ConfigError: file and line of what is wrong, duplicate keys included.
    """
    try:
        return _mapping(path.read_text(encoding="utf-8"), path)
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError.at(str(path), " ".join(str(error).split())) from None


def read_top(path: Path, keys: Collection[str], there: Collection[str] = ()) -> dict[str, Any]:
    """Read the wanted settings at the top of a YAML file, for listings: the rest is not even parsed, which is most of
    the time, and may be wrong.

    Args:
        there: settings that are only asked whether they are there, and are True then.

    Raises:
        ConfigError: file and line of what is wrong with these.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError.at(str(path), " ".join(str(error).split())) from None
    blocks = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    wanted = [block for block in blocks if block.partition(":")[0] in keys]
    found = {key: True for block in blocks if (key := block.partition(":")[0]) in there}
    words = [match for block in wanted if (match := _WORDS.fullmatch(block))]
    plain_words = {match[1]: match[2] if match[3] is None else match[3] for match in words}
    if len(plain_words) == len(wanted) and not _OTHER & {str(match[2]).lower() for match in words}:
        return plain_words | found  # as nearly all of them are: a parser in Python takes a hundred times as long
    return _mapping("".join(wanted) or "{}", path) | found


def _mapping(text: str, path: Path) -> dict[str, Any]:
    data = _yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError.at(str(path), f"holds {type(data).__name__}, not a mapping")
    return data


CHECKSUM, SUM = "checksum", "sha256:"
"""The key of a checksum, and the beginning of its value. Either shows that there is one: a flipped bit leaves one."""
CHANGED = "was changed after it was written, by hand or by a fault of the disk: its checksum is another's"
"""The sentence about what is not as its checksum says."""


def checksum(data: Mapping[str, Any]) -> str:
    """The checksum of plain data: of what JSON holds of it, however that is laid out."""
    text = json.dumps(json.loads(json.dumps(data)), sort_keys=True)
    return SUM + hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path, remedy: str = "put back the one that was written", *, edit: bool = False) -> dict[str, Any]:
    """A JSON mapping that flexframe wrote, without its checksum. One of before there were checksums is taken as it is.

    Args:
        remedy: what to do where it cannot be used.
        edit: whether people may change it: then a change is told, and it is taken as it is.

    Raises:
        ConfigError: it cannot be read, holds something else, or is not what was written.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError.at(str(path), f"cannot be read ({error}); {remedy}") from None
    if not isinstance(data, dict):
        raise ConfigError.at(str(path), f"holds {type(data).__name__}, not a mapping; {remedy}")
    summed = CHECKSUM in data or any(isinstance(value, str) and value.startswith(SUM) for value in data.values())
    told = data.pop(CHECKSUM, None)
    if summed and told != checksum(data):
        if not edit:
            raise ConfigError.at(str(path), f"{CHANGED}; {remedy}")
        log.warning("%s %s; it is taken as it is now", path, CHANGED)
    return data


def _yaml(text: str, place: str, what: str = "its YAML") -> Any:
    """Plain data from YAML that stands at `place`; an error says that it cannot read `what`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # of a tag's own making, as `!!int a`, ruamel raises whatever it comes upon
        raise ConfigError.at(place, f"cannot read {what}: {_reason(error)}") from None
    return plain(data, place)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()).partition(" To suppress this check")[0] or type(error).__name__


def plain(data: Any, place: str = "") -> Any:
    """Copy data of a file as what JSON could hold: words, numbers, lists, and mappings by words. A whole number that
    is a key becomes a word.

    Raises:
        ConfigError: anything else, as a date; a number of more than 63 bits; data that hold themselves, or are huge.
    """
    left = MOST_VALUES

    def copied(value: Any, at: str, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > DEEPEST or left < 0:
            text = f"is nested deeper than {DEEPEST} times, or has more than {MOST_VALUES:,} values"
            raise ConfigError.at(place, text)
        if isinstance(value, dict):
            return {named(key, at): copied(each, f"{at}.{key}".lstrip("."), depth + 1) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [copied(each, f"{at}.{i}".lstrip("."), depth + 1) for i, each in enumerate(value)]
        if isinstance(value, int) and not isinstance(value, bool) and not -LARGEST <= value < LARGEST:
            raise ConfigError.at(at, "is a whole number of more than 63 bits, which no setting takes")
        if value is None or isinstance(value, str | bool | int | float):
            return value
        raise ConfigError.at(at, f"is a {type(value).__name__}, and no word, number, list or mapping; put it in quotes")

    def named(key: Any, at: str) -> str:
        if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
            return str(key)
        raise ConfigError.at(at, f"has the key {key!r}, and keys are words; put it in quotes")

    return copied(data, place, 0)


def split_override(text: str) -> tuple[str, Any]:
    """Split `key.path=value` into its key and its value, which is read as YAML.

    Raises:
        ConfigError: it is not of this form, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError.at(text, "is not of the form key.path=value")
    return key, _yaml(value, key, repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}...")


def put(data: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Copy nested data with `value` at `path`; a part given as a bare name becomes a mapping on the way.

    Entries of a list are named by number: `metrics.0.type`.

    Raises:
        ConfigError: there is nothing on the way that could hold the rest of the path.
    """
    head, *rest = path
    if not rest:
        if head == "type" and data.get("type", value) != value:
            return {"type": value}  # another part: the settings of the one before are not its own
        return {**data, head: value}
    inner = data.get(head)
    if inner is None:
        inner = {}
    elif isinstance(inner, str):
        inner = {"type": inner}
    elif isinstance(inner, list):
        return {**data, head: _put_in_list(inner, rest, value, head)}
    elif not isinstance(inner, Mapping):
        raise ConfigError.at(".".join(path), f"{head!r} is {inner!r}, which has no settings of its own")
    return {**data, head: put(inner, rest, value)}


def _put_in_list(items: Sequence[Any], path: Sequence[str], value: Any, name: str) -> list[Any]:
    number, *rest = path
    if not number.isdecimal() or int(number) >= len(items):
        raise ConfigError.at(f"{name}.{number}", f"there are {len(items)}, numbered from 0")
    changed = list(items)
    changed[int(number)] = put({"": changed[int(number)]}, ["", *rest], value)[""]
    return changed


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`; a part of another `type` replaces the whole part."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, str) and key in SLOTS and isinstance(value, Mapping):
            below = {"type": below}
        merged[key] = value
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            kind = below.get("type")
            if value.get("type", kind) == kind:
                merged[key] = merge(below, value)
    return merged
