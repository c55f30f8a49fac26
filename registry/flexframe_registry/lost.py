"""Plugins that a run was made with and that are not installed here, as its manifest tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .errors import ConfigError
from .files import read_json
from .runfolder import RunFolder

ABOVE = 3
"""Levels from a file in a run's folder up to that folder, at the most: a checkpoint's average."""


@contextmanager
def named(path: Path) -> Iterator[None]:
    """A block that reads the config of a run's folder, or of a file in it: where it cannot be read, the plugins that
    the run was made with and that are not here are named."""
    try:
        yield
    except ConfigError as error:
        lost = lost_plugins(path)
        if not lost:
            raise
        *others, (place, text) = error.problems
        told = f"{text}; it was made with {' and '.join(lost)}, not installed here: install that first"
        raise ConfigError([*others, (place, told)]) from None


def lost_plugins(path: Path) -> list[str]:
    """Distributions with their versions, as the manifest of the run lists those that provide parts: before Python."""
    absolute = path.absolute()
    manifests = (RunFolder(folder).manifest for folder in (absolute, *absolute.parents[:ABOVE]))
    manifest = next((each for each in manifests if each.is_file()), None)
    if manifest is None:
        return []
    try:
        versions = read_json(manifest, edit=True).get("versions")
    except ConfigError:
        return []  # a manifest is a courtesy; what is wrong is told of the config
    if not isinstance(versions, dict) or "python" not in versions:
        return []
    providers = list(versions)[: list(versions).index("python")]
    return [f"{name} {versions[name]}" for name in providers if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except (PackageNotFoundError, ValueError):
        return False
