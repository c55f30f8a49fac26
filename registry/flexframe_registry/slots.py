"""Fields that hold any installed part of a kind: a bare name, a mapping with `type`, or a config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator, SerializeAsAny

from .config import ComponentConfig, Size
from .errors import ConfigError
from .manager import catalogue


def resolve(kind: str, value: Any, size: Size | None = None) -> Any:
    """A bare name, a mapping with `type`, or a config, as a config of this kind.

    Raises:
        ConfigError: no type, no such component, or what is wrong with its settings.
    """
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        return value
    if "type" not in value:
        raise ConfigError.at("", f"needs a `type`, one of: {', '.join(catalogue().names(kind))}")
    if not isinstance(value["type"], str):
        raise ConfigError.at("type", f"is a name, not {value['type']!r}")
    try:
        component = catalogue().get(kind, value["type"])
    except LookupError as error:
        raise ConfigError.at("", str(error)) from None
    if not all(isinstance(key, str) for key in value):
        raise ConfigError.at("", "has settings whose names are no words; put these in quotes")
    return component.config.sized(size, **value)


if TYPE_CHECKING:
    _T = TypeVar("_T")
    Slot = Annotated[_T, ...]
else:

    class Slot:
        """`Slot[EncoderConfig]`: a field that holds any installed config of that kind."""

        def __class_getitem__(cls, base: type[ComponentConfig]) -> Any:
            return Annotated[SerializeAsAny[base], BeforeValidator(partial(resolve, base.kind))]
