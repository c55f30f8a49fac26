"""Earlier spellings of a run's settings, in one table: read wherever a run is read, and told with the present ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an earlier setting: a component's field."""

    slot: str
    field: str = ""
    """The component's field that has the value; empty where naming the component says all."""
    type: str = ""
    """The component that the setting asked for; empty where it is the one that the slot has."""
    several: bool = False
    """True where the slot holds a list of components."""

    def spelled(self, value: Any) -> str:
        """The setting as it is written on the command line now."""
        if not self.type:
            return f"run.{self.slot}.{self.field}={_plain(value)}"
        own = f"{{type: {self.type}, {self.field}: {_plain(value)}}}" if self.field else self.type
        return f"run.{self.slot}=[{own}]" if self.several else f"run.{self.slot}={own}"


MOVED: Mapping[str, Place] = {
    "latents": Place("feed", "path", "latents"),
    "tokens": Place("feed", "path", "token-file"),
    "workers": Place("feed", "workers"),
    "preload": Place("feed", "preload"),
    "keep_latents": Place("feed", "keep_latents"),
    "keep_tokens": Place("feed", "keep_tokens"),
    "held_out": Place("feed", "held_out"),
    "flip": Place("transforms", "", "flip", several=True),
    "shift": Place("transforms", "pixels", "shift", several=True),
    "lr": Place("optimizer", "lr"),
    "final_lr": Place("optimizer", "final_lr"),
    "warmup": Place("optimizer", "warmup"),
    "betas": Place("optimizer", "betas"),
    "weight_decay": Place("optimizer", "weight_decay"),
    "clip": Place("optimizer", "clip"),
    "tensorboard": Place("observers", "", "tensorboard", several=True),
    "wandb": Place("observers", "project", "wandb", several=True),
}
"""Settings of a run before feeds, transforms, observers and optimizers were components, and where each is now. Those
that name a component come first, for the others' fields are its."""
UNREAD = frozenset({"workers", "preload"})
"""Earlier settings that went for nothing beside `tokens`."""


def present(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings with each earlier spelling in its present place; a `FutureWarning` names those that were used.

    What an earlier setting says is laid on what stands in that place.
    """
    told, now = [], {name: value for name, value in run.items() if name not in MOVED}
    for name, place in MOVED.items():
        if name not in run or (name in UNREAD and run.get("tokens") is not None):
            continue
        value = run[name]
        if _put(now, place, value):
            told.append(f"run.{name} is now {place.spelled(value)}")
    if told:
        warnings.warn(f"earlier spellings of settings still work: {'; '.join(told)}", FutureWarning, stacklevel=2)
    return now


def _put(run: dict[str, Any], place: Place, value: Any) -> bool:
    """Set what an earlier setting said. False where it said that something is off which is off by itself."""
    off = value is None or value is False or (value == 0 and place.slot != "optimizer")
    if place.several:
        given = run.get(place.slot)
        each = [given] if isinstance(given, str | Mapping) else list(given or ())
        others = [one for one in each if _type(one) != place.type]
        if off and len(others) == len(each):
            return False
        own = {"type": place.type, place.field: value} if place.field else place.type
        run[place.slot] = others if off else [*others, own]
        return True
    held = _held(run, place)
    if place.type:
        if off and held.get("type") != place.type:
            return False
        rest = {name: each for name, each in held.items() if name not in ("type", place.field)}
        run[place.slot] = rest if off else {"type": place.type, place.field: value, **rest}
        return True
    if off and place.slot == "feed" and place.field not in held:
        return False
    run[place.slot] = {**held, place.field: value}
    return True


def _held(run: Mapping[str, Any], place: Place) -> dict[str, Any]:
    given = run.get(place.slot)
    if isinstance(given, str):
        return {"type": given}
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError.at(place.slot, "is a config by itself; set its fields there, and leave out earlier spellings")
    return dict(given or {})


def _type(given: Any) -> Any:
    return given.get("type") if isinstance(given, Mapping) else getattr(given, "type", given)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)
