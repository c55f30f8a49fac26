"""Published checkpoints of other code bases, made ours: opened safely, translated by an importer, checked, kept.

An importer is a component (kind `importer`). `convert` finds the one that knows a checkpoint; `flexframe.load` and
`flexframe import` go through it.
"""

from __future__ import annotations

from flexframe.importing.compare import ATOL, Comparison, compare
from flexframe.importing.foreign import Foreign, Imported, TensorFile, open_foreign
from flexframe.importing.names import beginning
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
    known = catalogue().names("importer")
    built = {each: catalogue().build(resolve("importer", each)) for each in ([name] if name else known)}
    inner = source
    while True:
        names = [each for each, importer in built.items() if importer.recognises(inner)]
        if len(names) == 1:
            return inner, built[names[0]]
        word = beginning(inner.tensors)
        if names or not word:
            break
        inner = inner.without(word)
    if name:
        return source, built[name]
    if names:
        text = f"could be of several formats: {', '.join(names)}; say which with --as"
    else:
        keys, tensors = ", ".join(list(source.settings)[:6]) or "none", ", ".join(list(source.tensors)[:4]) or "none"
        text = f"is of no format known here ({', '.join(known)}). Its settings: {keys}; its tensors: {tensors}"
    raise ConfigError.at(str(source.path), text)


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
