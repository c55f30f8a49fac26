"""Names of models in tables and on pages. Imports neither torch nor, before it is asked, the registry."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path


def names_and_settings(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Models, and settings of the suite (`key.path=value`), told apart; a file may have a `=` in its name."""
    settings = [word for word in given if re.match(r"[a-z_][\w.]*=", word) and not Path(word).exists()]
    return [word for word in given if word not in settings], settings


def names_of(models: Sequence[str]) -> list[str]:
    """Names of models in tables and on pages: a card's id, else as much of a path's end as tells it from the others.

    Raises:
        ConfigError: one is named twice.
    """
    from flexframe_registry import ConfigError

    parts = [_parts(model) for model in models]
    twice = next((model for i, model in enumerate(models) if parts[i] in parts[:i]), None)
    if twice is not None:
        text = "is named twice; name it once, or other settings of use by a card file of their own (`base`, `sampling`)"
        raise ConfigError.at(twice, text)
    taken = [1] * len(models)
    while True:
        names = ["/".join(each[-k:]) for each, k in zip(parts, taken, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1 and taken[i] < len(parts[i])]
        if not alike:
            return names
        for i in alike:
            taken[i] += 1


def _parts(model: str) -> tuple[str, ...]:
    """A model's name in parts, of which the last one says most; a card's id is one part."""
    from flexframe_registry import cards
    from flexframe_registry.cards import is_card_file

    prefix, _, rest = model.partition(":")
    bare = rest if prefix in ("card", "path", "hf") else model
    if prefix == "card" or (prefix not in ("path", "hf") and bare in cards().files):
        return (bare,)
    path = Path(bare)
    if prefix == "hf" or not path.exists():
        return path.parts
    path = Path(os.path.abspath(path))  # not resolved: a link's name is the one that was given
    return (path.with_suffix("") if is_card_file(path) else path).parts[1:]
