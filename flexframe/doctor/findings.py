"""Findings of the doctor, and what they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

State = Literal["ok", "missing", "broken"]
Rows = Iterable[tuple[str, str] | tuple[str, str, State]]
"""Name and text, and how it is unless it is well."""
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, how it is, and what to do about it."""

    section: str
    name: str
    text: str
    state: State = "ok"
    """`missing`: could be there and is not. `broken`: is installed and does not work."""


def one_line(error: BaseException) -> str:
    """An error's type and words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def installed(name: str) -> bool:
    """Tell whether a distribution of this name is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
