"""The things that lie beside an image, in files of its name or in members of its sample: label and caption."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flexframe.data.images import BrokenImage
from flexframe.data.source import Facts

ADVICE = "where it is no label of this image, set `labels: none` (or `folders`) in the data"
LARGEST = 1 << 20
"""Bytes of a caption or of a sample's JSON."""


def facts(read: Callable[[str], bytes | None], shown: str, want: Facts = "all") -> tuple[int | None, str | None]:
    """Label and caption of a sample, of its parts `cls`, `json` and `txt` as `read` gives them; the caption only where
    all are wanted, or captions alone. What is not wanted is not read: no JSON beside a `cls`, no text where a label is
    all, no `cls` and no JSON beside a text where a caption is.

    Raises:
        BrokenImage: a part that is not what it should be, or two that say otherwise.
    """
    if want == "none":
        return None, None
    if want == "captions":
        return None, _caption(read, shown)
    cls = _text(read("cls"), f"{shown}.cls")
    about = _text(read("json"), f"{shown}.json") if cls is None or want == "all" else None
    text = _text(read("txt"), f"{shown}.txt") if want == "all" else None
    label = None if cls is None else _label(cls.strip(), f"{shown}.cls")
    caption = None if text is None else text.strip()
    if about is not None:
        fields = _fields(about, f"{shown}.json")
        if fields.get("label") is not None:
            other = _label(fields["label"], f"{shown}.json: label")
            if label is not None and other != label:
                raise BrokenImage(f"cannot read {shown}: its .cls says label {label} and its .json {other}")
            label = other
        caption = _told(fields, shown) if caption is None else caption
    return label, caption


def _caption(read: Callable[[str], bytes | None], shown: str) -> str | None:
    """The caption alone, of a sample's text or else of its JSON."""
    text = _text(read("txt"), f"{shown}.txt")
    if text is not None:
        return text.strip()
    about = _text(read("json"), f"{shown}.json")
    return None if about is None else _told(_fields(about, f"{shown}.json"), shown)


def _told(fields: Mapping[str, Any], shown: str) -> str | None:
    """The caption in a sample's JSON."""
    caption = fields.get("caption")
    if caption is not None and not isinstance(caption, str):
        raise BrokenImage(f"cannot read {shown}.json: caption: is {caption!r}, no text")
    return caption


def _text(content: bytes | None, shown: str) -> str | None:
    if content is None:
        return None
    if len(content) > LARGEST:
        raise BrokenImage(f"cannot read {shown}: it has over {LARGEST:,} bytes; {ADVICE}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenImage(f"cannot read {shown}: {error}") from None


def _label(value: Any, shown: str) -> int:
    """A class number: an integer, or its digits."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19
    if not digits and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63):
        raise BrokenImage(
            f"cannot read {shown}: {value!r:.60} is no class number, which is an integer from 0; {ADVICE}"
        )
    return int(value)


def _fields(text: str, shown: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenImage(f"cannot read {shown}: {error}; {ADVICE}") from None
    if not isinstance(fields, dict):
        raise BrokenImage(f"cannot read {shown}: it holds {type(fields).__name__}, not an object; {ADVICE}")
    return fields
