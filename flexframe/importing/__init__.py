"""Published checkpoints of other code bases, made ours: opened safely, translated by an importer, checked, kept.

An importer is a component (kind `importer`). `convert` finds the one that knows a checkpoint; `flexframe.load` and
`flexframe import` go through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flexframe.importing.compare import ATOL, Comparison, compare
from flexframe.importing.foreign import Foreign, Imported, TensorFile, open_foreign
from flexframe.importing.names import alike, beginning
from flexframe.importing.settings import Settings
from flexframe_registry import ConfigError, catalogue
from flexframe_registry.slots import resolve


def importer_of(source: Foreign, name: str | None = None):  # type: ignore[no-untyped-def]
    """The importer of a checkpoint: the named one, or the one that recognises it.

    Raises:
        ConfigError: none recognises it, or several do.
    """
    return understood(source, name)[1]


def understood(source: Foreign, name: str | None = None):  # type: ignore[no-untyped-def]
    """A checkpoint as its importer knows it, and the importer. Where none does, and the names of its tensors all begin
    with one word, as those of a model within another do, it is looked at without.

    Raises:
        ConfigError: none recognises it, or several do.
    """
    known, failed = catalogue().names("importer"), dict[str, str]()
    built = {name: catalogue().build(resolve("importer", name))} if name else _built(known, failed)
    inner, within = source, ""
    while True:
        names = [each for each, importer in built.items() if _recognises(each, importer, inner, failed)]
        if len(names) == 1:
            passed = (f"{each}; it was passed over" for each in failed.values())
            return replace(inner, notes=(*inner.notes, *passed)), built[names[0]]
        word = beginning(inner.tensors)
        if names or not word:
            break
        inner, within = inner.without(word), within + word
    if name:
        return source, built[name]
    also = "".join(f"; {each}" for each in failed.values())
    if names:
        text = f"could be of several formats: {', '.join(names)}; say which with --as{also}"
    else:
        keys, tensors = ", ".join(list(source.settings)[:6]) or "none", ", ".join(list(source.tensors)[:4]) or "none"
        beside = alike(inner.tensors, within)
        hint = f"; it has the same tensors under {beside}: say which with --entry NAME" if beside else ""
        text = f"is of no format known here ({', '.join(known)}). Its settings: {keys}; its tensors: {tensors}"
        text += f"{hint}{also}"
    raise ConfigError.at(str(source.path), text)


def _built(names: Sequence[str], failed: dict[str, str]) -> dict[str, Any]:
    """All importers but those that a plugin is at fault with, which are taken down with what is wrong."""
    built: dict[str, Any] = {}
    for name in names:
        try:
            built[name] = catalogue().build(resolve("importer", name))
        except Exception as error:  # a stranger's module may raise anything
            failed[name] = str(error)
    return built


def _recognises(name: str, importer: Any, source: Foreign, failed: dict[str, str]) -> bool:
    try:
        return bool(importer.recognises(source))
    except ConfigError:
        raise
    except Exception as error:  # as above
        failed[name] = f"importer {name!r} failed: {type(error).__name__}: {error}"
        return False


__all__ = [
    "ATOL",
    "Comparison",
    "Foreign",
    "Imported",
    "Settings",
    "TensorFile",
    "compare",
    "importer_of",
    "open_foreign",
    "understood",
]
