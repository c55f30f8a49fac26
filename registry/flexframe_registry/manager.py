"""Finds plugins through the `flexframe` entry-point group, and keeps one bad plugin from spoiling the rest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

import pluggy

from . import hookspecs
from .catalogue import Broken, Catalogue, Component
from .errors import nearest

ONLY = "FLEXFRAME_PLUGINS"
"""Environment variable: a comma-separated list of the only entry points to load (tests, bisecting)."""


class Manager(pluggy.PluginManager):
    """A pluggy manager that remembers each plugin's provider and which plugins failed."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)
        self.providers: dict[str, str] = {}
        self.broken: list[Broken] = []

    def add(self, plugin: object, name: str, provider: str) -> None:
        """Register a plugin object; a hook it misspells is an error that names the plugin."""
        self.register(plugin, name)
        try:
            self.check_pending()
        except pluggy.PluginValidationError:
            self.unregister(name=name)
            raise
        self.providers[name] = provider

    def add_entry_point(self, point: EntryPoint) -> None:
        """Import and register an entry point; a failure is kept in `broken`."""
        provider = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            self.add(point.load(), point.name, provider)
        except (Exception, SystemExit) as error:  # a stranger's module may raise anything at import
            self.broken.append(Broken(point.name, provider, _one_line(error)))

    def components(self) -> list[Component]:
        """Every plugin's components, stamped with their provider."""
        components: list[Component] = []
        for impl in list(self.hook.flexframe_components.get_hookimpls()):
            provider = self.providers[impl.plugin_name]
            try:
                given = cast(Iterable[Component], impl.function())
                stamped = [replace(component, provider=provider) for component in given]
                Catalogue(stamped)  # a plugin at odds with itself is its own fault, not the catalogue's
            except (Exception, SystemExit) as error:  # see add_entry_point
                self.broken.append(Broken(impl.plugin_name, provider, _one_line(error)))
                self.unregister(name=impl.plugin_name)
            else:
                components += stamped
        return components

    def card_folders(self) -> list[Path]:
        """Every plugin's folders of cards."""
        folders: list[Path] = []
        for impl in self.hook.flexframe_cards.get_hookimpls():
            try:
                folders += [Path(folder) for folder in cast(Iterable[Path], impl.function())]
            except (Exception, SystemExit) as error:  # see add_entry_point
                self.broken.append(Broken(impl.plugin_name, self.providers[impl.plugin_name], _one_line(error)))
        return folders

    def observe(self, hook: str, failed: set[str], **told: Any) -> None:
        """Call an observing hook of every plugin but the failed ones, to which those that raise now are added: they are
        named, and what they watch goes on without them."""
        caller = getattr(self.hook, hook)
        plugins = {impl.plugin_name: impl.plugin for impl in caller.get_hookimpls()}
        for name in sorted(plugins.keys() - failed):
            others = [plugin for other, plugin in plugins.items() if other != name]
            try:
                self.subset_hook_caller(hook, others)(**told)
            except (Exception, SystemExit) as error:  # see add_entry_point
                failed.add(name)
                who = f"plugin {name!r} ({self.providers.get(name, name)}) failed in {hook}"
                warnings.warn(f"{who} ({_one_line(error)}); it is told no more, and all else goes on", stacklevel=3)


def create_manager(plugins: Iterable[object] = (), *, points: bool = True) -> Manager:
    """A manager over the given plugin objects and, unless `points` is off, over the installed entry points."""
    manager = Manager()
    for plugin in plugins:
        name = getattr(plugin, "__name__", type(plugin).__name__)
        manager.add(plugin, name, name)
    if points:
        only = os.environ.get(ONLY)
        wanted = None if only is None else {_renamed(name.strip()) for name in only.split(",")}
        installed = sorted(entry_points(group=hookspecs.PROJECT), key=lambda p: p.name)
        for point in installed:
            if wanted is None or point.name in wanted:
                manager.add_entry_point(point)
        known = [point.name for point in installed]
        for name in sorted((wanted or set()) - {*known, ""}):
            text = f"no plugin of this name is installed.{nearest(name, known)} Known: {', '.join(known)}"
            manager.broken.append(Broken(name, ONLY, text))
    return manager


def _renamed(name: str) -> str:
    """The name of a plugin today; what an old one is called now is told."""
    if name != "builtin":
        return name
    warnings.warn(f"{ONLY}: the plugin `builtin` is now `standard`", DeprecationWarning, stacklevel=3)
    return "standard"


@cache
def manager() -> Manager:
    """The process's manager over the installed plugins."""
    return create_manager()


@cache
def catalogue() -> Catalogue:
    """The process's catalogue over the installed plugins."""
    components = manager().components()  # first, for it is what finds the broken
    only = os.environ.get(ONLY)
    return Catalogue(components, manager().broken, "" if only is None else f"{ONLY} loads {only or 'none'} alone")


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
