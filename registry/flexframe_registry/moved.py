"""Old places of what has moved, for one minor version: they work, and a `DeprecationWarning` names the new place."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

GONE = "0.3"
"""The version without the old places."""


def moved(old: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that finds names where they are now.

    Args:
        old: the module's own name.
        places: by new module the names that it has now, with a space between; `old=new` where the name is another, too.
    """
    renamed = [(module, *name.partition("=")) for module, names in places.items() for name in names.split()]
    found = {name: (module, new or name) for module, name, _, new in renamed}

    def find(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        module, new = found[name]
        text = f"{old}.{name} is now {module}.{new}; the old place goes with flexframe {GONE}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(module), new)

    return find
