"""Words for a check that fails: what was asked, what was found, and where to look."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Mapping
from functools import cache, wraps
from types import FrameType
from typing import Any

from torch import Tensor

from flexframe_registry import Component

from .materials import Check, Fields

LONGEST = 80
"""Characters of a value that is shown."""


@cache
def telling(check: Check) -> Check:
    """A check whose failures say what it asks, and which class was asked; one without words shows its own condition and
    the values in it."""

    @wraps(check)
    def told(component: Component, fields: Fields) -> None:
        try:
            check(component, fields)
        except AssertionError as error:
            asked = (check.__doc__ or "").strip().partition("\n")[0].rstrip(".")
            found = str(error) or _condition(error)
            where = f"{component.kind} {component.name!r} at {component.target}"
            raise AssertionError(f"{found}\nasked: {asked}\nlook at: {where}") from error

    return told


def _condition(error: AssertionError) -> str:
    """The source of the assertion that failed, and the values of its names."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an assertion without words"
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
    return f"not so: {line.removeprefix('assert ')}{_values(line, trace.tb_frame)}"


def _values(line: str, frame: FrameType) -> str:
    try:
        names = {node.id: None for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)}
    except SyntaxError:  # a line of several
        return ""
    shown = [f"{name} = {_shown(frame.f_locals[name])}" for name in names if name in frame.f_locals]
    return f" (found {'; '.join(shown)})" if shown else ""


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(inner)}" for key, inner in list(value.items())[:4]) + "}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
