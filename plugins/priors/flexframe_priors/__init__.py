"""Priors that are of no tokenizer's family: models of token codes, one code after the other."""

from __future__ import annotations

from collections.abc import Iterable

from flexframe_registry import Component, hookimpl


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return []
