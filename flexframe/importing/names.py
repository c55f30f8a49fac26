"""Names of a checkpoint's tensors without what training scripts put around them: entries, wrappers, prefixes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from flexframe_registry import ConfigError

WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Modules that torch.compile, FSDP and activation checkpointing put around another, wherever in a name."""
PARALLEL = "module."
"""Begins every name of a model within DataParallel or DDP."""
AVERAGE = "_ema"
"""Ends the name of a running average of weights, behind that of the weights."""
DEEPEST = 4
"""Mappings within each other that are looked into."""
LISTED = 6


def flat(held: Mapping[str, Any], where: str) -> tuple[str, dict[str, Tensor]]:
    """The tensors of one file by name: those that it holds, or those of the one mapping of tensors within it, or of two
    the running average. Before them the path of that mapping.

    Raises:
        ConfigError: it holds several mappings of tensors, or none.
    """
    entries = dict(_entries(held))
    if len(entries) == 1:
        return next(iter(entries.items()))
    if average := average_of(entries):
        return average, entries[average]
    if not entries:
        mixed = ", ".join(_shown(name) for name in list(dict(_entries(held, pure=False)))[:LISTED] if name)
        advice = f"if they are under {mixed}, say so with --entry NAME" if mixed else "ask for the bare state dict"
        raise ConfigError.at(where, f"holds something else than tensors by name; {advice}")
    listed = ", ".join(_shown(name) for name in list(entries)[:LISTED])
    raise ConfigError.at(where, f"holds tensors under {listed}; say which with --entry NAME")


def average_of(sets: Mapping[str, Collection[str]]) -> str:
    """Of two sets of tensors the one that is the running average of the other, by its name (`model_ema` beside `model`)
    and by the tensors' own, which are the same; empty where they are no such pair."""
    if len(sets) != 2:
        return ""
    plain, average = sorted(sets)
    same = set(sets[plain]) == set(sets[average]) and "" not in sets[plain]
    return average if same and average == plain + AVERAGE else ""


def below(held: Mapping[str, Any], entry: str, where: str) -> dict[str, Tensor]:
    """The tensors of one file under an entry: a mapping within it, or what begins the names.

    Raises:
        ConfigError: there is nothing under that name.
    """
    only = [name for name in dict(_entries(held)) if name]
    if len(only) == 1 and entry.partition(".")[0] not in held:  # what begins the names of the one mapping
        entry = f"{only[0]}.{entry}"
    inner, rest = held, entry.split(".")
    while rest and isinstance(inner.get(rest[0]), Mapping):
        inner = inner[rest.pop(0)]
    prefix = "".join(f"{part}." for part in rest)
    named = {name: value for name, value in inner.items() if isinstance(name, str)}
    found = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if tensors:
        return tensors
    there = [name for name in dict(_entries(held)) if name] or sorted({str(name).partition(".")[0] for name in held})
    listed = ", ".join(_shown(name) for name in there[:LISTED])
    raise ConfigError.at("--entry", f"{where} has no tensors under {entry!r}; there is {listed}")


def unwrapped(names: Collection[str]) -> dict[str, str]:
    """Each name without the wrappers of torch; the file's own by the name that is left."""
    bare = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names}
    while bare and all(name.startswith(PARALLEL) for name in bare.values()):
        bare = {name: short.removeprefix(PARALLEL) for name, short in bare.items()}
    return {short: name for name, short in bare.items()}


def renamed(names: Mapping[str, str], rename: Mapping[str, str], where: str) -> dict[str, str]:
    """Names with other beginnings. A beginning is looked for as the file has it, else without torch's wrappers.

    Args:
        names: the file's own names by those that they have here.
        rename: what is put in a beginning's place, by the beginning.

    Raises:
        ConfigError: no name begins so, or two would be one.
    """
    changed = {own: here for here, own in names.items()}
    for old, new in rename.items():
        hits = [own for own, here in changed.items() if own.startswith(old)] or [
            own for own, here in changed.items() if here.startswith(old)
        ]
        if not hits:
            listed = ", ".join(_shown(name) for name in list(names)[:LISTED])
            raise ConfigError.at("--rename", f"{where} has no tensor whose name begins with {old!r}: {listed}, ...")
        for own in hits:
            held = own if own.startswith(old) else changed[own]
            changed[own] = new + held.removeprefix(old)
    if len(set(changed.values())) < len(changed):
        twice = next(here for here in changed.values() if list(changed.values()).count(here) > 1)
        raise ConfigError.at("--rename", f"{where} would have two tensors of the name {twice!r}")
    return {here: own for own, here in changed.items()}


def beginning(names: Collection[str]) -> str:
    """The first part that all names share, with its point; empty where they share none."""
    first = {name.partition(".")[0] for name in names}
    return f"{first.pop()}." if len(first) == 1 and all("." in name for name in names) else ""


def by_first(names: Collection[str]) -> dict[str, set[str]]:
    """The rest of each name behind its first part, by first part; empty where there is none."""
    rests: dict[str, set[str]] = {}
    for name in names:
        first, _, rest = name.partition(".")
        rests.setdefault(first, set()).add(rest)
    return rests


def alike(names: Collection[str], within: str = "") -> str:
    """The first parts of names, quoted, below which are the same names, as those of a model and of its average; empty
    where no two are alike. `within` is what the file has before all of them."""
    rests = by_first(names)
    most = max(rests.values(), key=len, default=set())
    found = [first for first, rest in rests.items() if "" not in rest and 2 * len(rest & most) > len(most)]
    return ", ".join(_shown(within + first) for first in found) if len(found) > 1 else ""


def _entries(
    held: Mapping[Any, Any], path: str = "", depth: int = 0, *, pure: bool = True
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings of nothing but tensors, by their path, or (not `pure`) of tensors and other things; an optimizer's state
    is none."""
    tensors = {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors and (not pure or len(tensors) == len(held)):
        yield path, tensors
    elif depth < DEEPEST:
        for key, value in held.items():
            if isinstance(key, str) and isinstance(value, Mapping) and "optim" not in key:
                yield from _entries(value, f"{path}.{key}".lstrip("."), depth + 1, pure=pure)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:57]}...")
