"""The catalogue of what is installed: components by (kind, name), who provides each, and plugins that failed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .config import ComponentConfig
from .errors import ConfigError, UnknownName, nearest
from .kinds import KINDS


@dataclass(frozen=True, slots=True)
class Component:
    """One named, buildable part: its config class, and where its class lives as "module:attribute".

    Kind and name are not repeated here: the kind is that of the config's base class, the name is the default of the
    config's `type` field. `provider` ("distribution version") is stamped by the manager.
    """

    config: type[ComponentConfig]
    target: str
    provider: str = ""

    @property
    def kind(self) -> str:
        """The kind of part, by the config's base class."""
        return self.config.kind

    @property
    def name(self) -> str:
        """The name in configs, by the default of the config's `type`.

        Raises:
            TypeError: the config has no such default.
        """
        name = self.config.model_fields["type"].default
        if not isinstance(name, str):
            raise TypeError(f'{self.config.__qualname__} needs `type: Literal["its-name"] = "its-name"`')
        return name

    def load(self) -> type:
        """Import the class and check that it fulfils the contract of its kind.

        Raises:
            ConfigError: it does not, or its module fails.
            ImportError: a library is missing, or the module.
        """
        who, contract = f"{self.kind} {self.name!r} of {self.provider}", attribute(self.config.contract)
        try:
            part = attribute(self.target)
        except ImportError as error:
            raise ImportError(f"{who} cannot be imported: {error}", name=error.name, path=error.path) from error
        except Exception as error:  # a stranger's module may raise anything at import
            words = " ".join(str(error).split())
            raise ConfigError.at(who, f"{self.target} cannot be imported: {type(error).__name__}: {words}") from error
        if not (isinstance(part, type) and issubclass(part, contract)):
            raise ConfigError.at(who, f"{self.target} is no {contract.__qualname__}; its author has to derive from it")
        return part


@dataclass(frozen=True, slots=True)
class Broken:
    """A plugin that could not be used, and why. It breaks nothing that does not name it."""

    plugin: str
    provider: str
    error: str


class Catalogue:
    """A read-only view of every component that the installed plugins provide."""

    def __init__(self, components: Iterable[Component], broken: Iterable[Broken] = (), limit: str = "") -> None:
        self._by_key: dict[tuple[str, str], Component] = {}
        self.broken = tuple(broken)
        self.limit = limit
        """A sentence that says why not all that is installed is here, where that is so."""
        for component in components:
            if component.kind not in KINDS:
                raise ValueError(
                    f"{component.name!r} is of a kind that there is not, {component.kind!r}."
                    f"{nearest(component.kind, KINDS)} Its config's base is one of: "
                    f"{', '.join(base.__name__ for base in KINDS.values())}"
                )
            key = (component.kind, component.name)
            if key in self._by_key:
                other = self._by_key[key].provider
                raise ValueError(
                    f"{component.kind} {component.name!r} is provided by both {other} and {component.provider}; "
                    "uninstall one of them"
                )
            self._by_key[key] = component

    def __iter__(self) -> Iterator[Component]:
        return iter(self._by_key.values())

    def names(self, kind: str) -> list[str]:
        """The names of this kind's components, sorted."""
        return sorted(name for k, name in self._by_key if k == kind)

    def get(self, kind: str, name: str) -> Component:
        """The component of this kind and name.

        Raises:
            UnknownName: there is none; the nearest right name is given.
        """
        try:
            return self._by_key[kind, name]
        except KeyError:
            names = self.names(kind)
            known = ", ".join(names) or "none is installed"
            lost = "".join(f" (plugin {b.plugin!r} could not be imported: {b.error})" for b in self.broken)
            lost += f" ({self.limit})" if self.limit else ""
            raise UnknownName(f"no {kind} named {name!r}.{nearest(name, names)} Known: {known}{lost}") from None

    def of(self, config: ComponentConfig) -> Component:
        """The component that a config belongs to."""
        return self.get(config.kind, config.type)

    def build(self, config: ComponentConfig, *args: Any, place: str = "") -> Any:
        """Import the config's class and construct it with `(config, *args)`.

        Args:
            place: where the config stands, as a user says it: `run.data`.

        Raises:
            ConfigError: what is wrong with it, below `place`.
            ImportError: a library is missing.
        """
        part = self.of(config).load()
        try:
            return part(config, *args)
        except ConfigError as error:
            raise error.below(place) from error.__cause__


def attribute(target: str) -> Any:
    """The object that "module:attribute" names; its module is imported."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
