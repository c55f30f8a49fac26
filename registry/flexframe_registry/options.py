"""A model's settings of use as a command line has them: `--top-k 5`, or `--set sampling.top_k=5`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from .config import Config
from .errors import ConfigError, nearest
from .files import put, split_override

FORMS: Mapping[Any, str] = {bool: "true|false", int: "N", float: "X", str: "TEXT"}
"""Placeholders for a value in help texts, by its type."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, for help texts and completion."""

    name: str
    """The field's name: `top_k`."""
    form: str
    """The look of a value: `N`, `X`, `true|false`, `euler|heun|midpoint`; `VALUE` for what YAML alone can say."""
    default: str
    """The value where none is given."""
    help: str
    """The field's docstring in one line."""

    @property
    def option(self) -> str:
        """The option of this name: `--top-k`."""
        return option(self.name)


def option(name: str) -> str:
    """A field's name as an option: `--top-k` of `top_k`."""
    return f"--{name.replace('_', '-')}"


def settings_of(kind: type[Config]) -> tuple[Setting, ...]:
    """Every setting of a config class, in its own order."""
    texts = kind.documentation()
    return tuple(_setting(name, field, texts.get(name, "")) for name, field in kind.model_fields.items())


def read_settings(
    kind: type[Config], arguments: Sequence[str] = (), assignments: Sequence[str] = (), *, prefix: str = "sampling"
) -> dict[str, Any]:
    """Settings given on a command line, by name: what is not given is not there.

    Args:
        kind: the class of settings, as a model's `config.sampling` has it.
        arguments: options as they were typed: `--name value` or `--name=value`; a yes-or-no setting may stand alone,
            and as `--no-name`. Values are YAML, as in cards.
        assignments: `prefix.name=value`, as `--set` takes them.

    Raises:
        ConfigError: a setting that there is not, with the nearest right name; one given twice; a value of another type.
    """
    given: dict[str, Any] = {}
    said: dict[str, str] = {}  # in which words each was given
    for name, words, value in [*_options(kind, arguments), *_assignments(assignments, prefix)]:
        if name in said:
            text = "is given twice" if said[name] == words else f"and {said[name]} both say so; give one of the two"
            raise ConfigError.at(words, text)
        said[name] = words
        given = put(given, name.split("."), value)
    try:
        kind.read(given)
    except ConfigError as error:
        raise ConfigError([(said.get(path) or f"{prefix}.{path}", text) for path, text in error.problems]) from None
    return given


def _options(kind: type[Config], arguments: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Name, option and value of each option."""
    known = {setting.option: setting for setting in settings_of(kind)}
    alone = {option(f"no_{each.name}"): each for each in known.values() if each.form == FORMS[bool]}
    read: list[tuple[str, str, Any]] = []
    rest = list(arguments)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        if word in alone and not equals:
            read.append((alone[word].name, known[alone[word].option].option, False))
            continue
        if word not in known:
            listed = f" Known: {', '.join(known)}" if known else ""
            raise ConfigError.at(word, f"there is no such setting.{nearest(word, known)}{listed}")
        setting = known[word]
        follows = bool(rest) and not re.match(r"--[a-z]", rest[0])
        if not equals and setting.form == FORMS[bool] and not (follows and rest[0] in ("true", "false")):
            read.append((setting.name, word, True))
            continue
        if not equals and not follows:
            raise ConfigError.at(word, f"needs a value: {word} {setting.form}")
        read.append((setting.name, word, split_override(f"{word}={value if equals else rest.pop(0)}")[1]))
    return read


def _assignments(assignments: Sequence[str], prefix: str) -> list[tuple[str, str, Any]]:
    """Name, words and value of each `prefix.name=value`."""
    read: list[tuple[str, str, Any]] = []
    for text in assignments:
        if not text.startswith(f"{prefix}."):
            raise ConfigError.at(text, f"is not of the form {prefix}.key=value")
        words, value = split_override(text)
        read.append((words.removeprefix(f"{prefix}."), words, value))
    return read


def _setting(name: str, field: FieldInfo, text: str) -> Setting:
    default = "required" if field.is_required() else str(field.get_default(call_default_factory=True))
    return Setting(name, _form(field.annotation), default, " ".join(text.split()))


def _form(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _form(inner[0])
    if origin is Literal:
        return "|".join(map(str, inner))
    without = [each for each in inner if each is not NoneType]
    if origin is not None and NoneType in inner and len(without) == 1:
        return _form(without[0])
    return FORMS.get(annotation, "VALUE")
