"""A config that cannot be used, told path by path in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Self, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

MISSING = "is required and is not given"
"""The sentence about a field without which there is no config."""


TOLD = 8
"""Problems that an error tells; all of them are in its `problems`."""


class UnknownName(LookupError):
    """A component or card was asked for by a name that nobody provides."""


def nearest(name: str, known: Iterable[str], likeness: float = 0.5) -> str:
    """' Did you mean ...?' for the closest known name of at least this likeness (of 1), or nothing."""
    near = difflib.get_close_matches(name, list(known), 1, likeness)
    return f" Did you mean {near[0]!r}?" if near else ""


class ConfigError(ValueError):
    """The problems of a config that cannot be used: `problems` holds (path, sentence) pairs."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        told = [f"{path}: {text}" if path else text for path, text in self.problems]
        more = [f"and {len(told) - TOLD} problems more"] if len(told) > TOLD else []
        super().__init__("; ".join([*told[:TOLD], *more]))

    @classmethod
    def at(cls, path: str, text: str) -> Self:
        """The error of one problem: where it is, and a sentence that says what to do."""
        return cls([(path, text)])

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent from one process to another, it is what it was."""
        return type(self), (self.problems,), self.__dict__

    def below(self, path: str) -> ConfigError:
        """These problems as those of what stands at `path`."""
        return ConfigError([(".".join(part for part in (path, inner) if part), text) for inner, text in self.problems])


def explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> ConfigError:
    """Turn pydantic's report into `ConfigError`: the path, what was found, what was expected, the nearest name."""
    problems: list[tuple[str, str]] = []
    either: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        place, alternatives = _place(model, item["loc"])
        loc = [str(part) for part in place]
        path = ".".join([prefix, *loc] if prefix else loc)
        if alternatives:  # one field that may be several things is one problem
            expected = item["msg"].removeprefix("Input should be ").replace("a valid tuple", "a list")
            if path in either:
                either[path].append(expected)
            else:
                either[path] = [expected]
                problems.append((path, ""))
            continue
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            problems += cause.below(path).problems
        elif item["type"] == "extra_forbidden":
            owner = _model_at(model, item["loc"][:-1])
            known = list(owner.model_fields) if owner else []
            listed = f" Known: {', '.join(known)}" if known else " There are none here; leave it out" if owner else ""
            problems.append((path, f"there is no such setting.{nearest(loc[-1], known)}{listed}"))
        elif item["type"] == "missing":
            problems.append((path, MISSING))
        elif item["type"] == "tuple_type":
            shown = "" if isinstance(item["input"], Mapping) else f", as [{item['input']}]"
            problems.append((path, f"is a list{shown}"))
        else:
            text = str(cause) if cause is not None else item["msg"]
            shown = "" if cause is not None or isinstance(item["input"], Mapping) else f" (found {item['input']!r})"
            problems.append((path, f"{text}{shown}"))
    told = {path: f"should be {', or '.join(dict.fromkeys(texts))}" for path, texts in either.items()}
    return ConfigError([(path, text or told[path]) for path, text in problems])


def _place(model: type[BaseModel], loc: Sequence[Any]) -> tuple[Sequence[Any], bool]:
    """Where an error is, up to the first field that may be one of several things; True where there is such a field."""
    owner: Any = model
    for i, part in enumerate(loc[:-1]):
        fields = getattr(owner, "model_fields", {})
        if part not in fields:
            return loc, False
        owner = fields[part].annotation
        if (
            get_origin(owner) in (Union, UnionType)
            and len([each for each in get_args(owner) if each is not NoneType]) > 1
        ):
            return loc[: i + 1], True
    return loc, False


def _model_at(model: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    owner: Any = model
    for part in loc:
        fields = getattr(owner, "model_fields", {})
        if part not in fields:
            return None
        owner = fields[part].annotation
    return owner if isinstance(owner, type) and issubclass(owner, BaseModel) else None
