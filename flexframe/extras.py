"""Libraries that only some uses take: one that is missing is a line with the command that brings it."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(module: str, extra: str, what: str) -> Any:
    """A module of a library that an extra of flexframe's brings.

    Args:
        what: who needs it, at the start of a sentence.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # it is there, and lacks something itself, which its own words say best
        raise ImportError(f"{what} needs {package}, which is not installed: pip install 'flexframe[{extra}]'") from None
