"""A foreign config, read setting by setting: what nobody reads is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flexframe_registry import ConfigError
from flexframe_registry.errors import nearest

_MISSING = object()


class Settings:
    """A mapping of a foreign config, and a record of what was read of it.

    Every `take` marks its path. `finish`, on the root, lists each setting that was never read, so that nothing that
    could matter is passed over in silence.
    """

    def __init__(self, data: Mapping[str, Any], path: str = "", read: set[str] | None = None) -> None:
        self.data, self.path = data, path
        self._read: set[str] = set() if read is None else read

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def at(self, name: str) -> str:
        """The full path of a setting, as `--assume` and `--drop` take it."""
        return f"{self.path}.{name}" if self.path else name

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """A setting's value; `kind` is its type, ints passing for floats, None only where `type(None)` is named.

        Raises:
            ConfigError: it is not given and has no default, or is of another type.
        """
        path = self.at(name)
        self._read.add(path)
        if name not in self.data:
            if default is _MISSING:
                raise ConfigError.at(path, f"is not given; if you know it, say --assume {path}=VALUE")
            return default
        value = self.data[name]
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) is int and float in kinds and int not in kinds:
            value = float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            words = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
            raise ConfigError.at(path, f"is {_short(value)}; expected {words}")
        return value

    def number(self, name: str, default: Any = _MISSING) -> Any:
        """A positive whole number.

        Raises:
            ConfigError: it is none.
        """
        value = self.take(name, int, default)
        if value is not None and value < 1:
            raise ConfigError.at(self.at(name), f"is {value}; expected at least 1")
        return value

    def numbers(self, name: str, default: Any = _MISSING) -> tuple[int, ...]:
        """A list of positive whole numbers.

        Raises:
            ConfigError: it is none.
        """
        value = self.take(name, (list, tuple), default)
        if not value or not all(type(v) is int and v > 0 for v in value):
            raise ConfigError.at(self.at(name), f"is {value!r}; expected whole numbers above 0")
        return tuple(value)

    def choice(self, name: str, known: Collection[Any], default: Any = _MISSING) -> Any:
        """One of the values that are supported.

        Raises:
            ConfigError: it is another.
        """
        value = self.take(name, (str, int, float, bool, list, type(None)), default)
        if value not in known:
            listed = ", ".join(repr(k) for k in known)
            near = nearest(value, [k for k in known if isinstance(k, str)]) if isinstance(value, str) else ""
            raise ConfigError.at(self.at(name), f"is {value!r}, which is not supported.{near} Supported: {listed}")
        return value

    def child(self, name: str, default: Any = _MISSING) -> Settings:
        """The mapping under a name."""
        self._read.discard(self.at(name))
        value = self.take(name, dict, default)
        self._read.discard(self.at(name))
        return Settings(value, self.at(name), self._read)

    def ignore(self, *names: str) -> None:
        """Mark settings as known to change nothing here, all below them included."""
        self._read.update(self.at(name) for name in names)

    def unread(self) -> list[tuple[str, Any]]:
        """Path and value of every setting that was not taken."""
        left: list[tuple[str, Any]] = []
        for name, value in self.data.items():
            path = self.at(name)
            if path in self._read:
                continue
            if isinstance(value, Mapping) and any(r.startswith(path + ".") for r in self._read):
                left += Settings(value, path, self._read).unread()
            else:
                left.append((path, value))
        return left

    def agreed(self, name: str, held: int) -> int:
        """A whole number that the tensors tell; where it is set too, it must be the same.

        Raises:
            ConfigError: it is not.
        """
        value = self.take(name, int, held)
        if value != held:
            raise ConfigError.at(self.at(name), f"is {value}, but the tensors have {held}; one of the two is wrong")
        return held

    def finish(self) -> None:
        """Raise `ConfigError` over all that was never read."""
        left = self.unread()
        if left:
            raise ConfigError(
                [
                    (
                        path,
                        f"{_short(value)} is unknown here, so what it changes is too; --drop {path} to go without it",
                    )
                    for path, value in left
                ]
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
