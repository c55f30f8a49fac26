"""What every config is: plain data that is checked, frozen and documented by its fields; and the base of all parts'."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from textwrap import dedent
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from .errors import ConfigError, explain
from .widths import Spec

Precision = Literal["fp32", "bf16"]
Size = Literal["tiny", "small", "base", "large"]
SIZES: tuple[Size, ...] = get_args(Size)
PLACE: JsonDict = {"place": True}
"""Marks a field that says where a file lies. What is in it moves a number, and is hashed; its place does not."""


ANEW: JsonDict = {"anew": True}
"""Marks a field that a run may be given anew where it goes on: no number of a step that is done hangs on it."""


def is_place(field: FieldInfo) -> bool:
    """Say whether a config's field is marked as a `PLACE`."""
    return isinstance(field.json_schema_extra, Mapping) and bool(field.json_schema_extra.get("place"))


def is_anew(field: FieldInfo) -> bool:
    """Say whether a config's field is marked as `ANEW`."""
    return isinstance(field.json_schema_extra, Mapping) and bool(field.json_schema_extra.get("anew"))


def may_change(config: BaseModel, path: str) -> bool:
    """Tell whether the field at a dotted path is one that a run may be given anew: `ANEW`, or a `PLACE`."""
    value: Any = config
    for name in path.split("."):
        field = type(value).model_fields.get(name) if isinstance(value, BaseModel) else None
        if field is None:
            return False
        if is_place(field) or is_anew(field):
            return True
        value = getattr(value, name)
    return False


class Config(BaseModel):
    """Base of every config: frozen, unknown fields refused, a docstring under each field as its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)
    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after models or results were out, with a default that leaves these what they were. At it they
    are no part of a fingerprint or a protocol, so that token files, priors and results of before still fit."""

    @classmethod
    def read(cls, value: Any, path: str = "") -> Self:
        """Validate plain data, which stands at `path` of a larger whole.

        Raises:
            ConfigError: one sentence a problem.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            raise explain(error, cls, path) from None

    def changed(self, *fields: str) -> Iterable[tuple[str, Any]]:
        """Pick of these fields those whose values are not the defaults, with the values: for settings that do nothing
        beside others."""
        defaults = type(self).model_fields
        return [(name, value) for name in fields if (value := getattr(self, name)) != defaults[name].get_default()]

    def deciding(self) -> dict[str, Any]:
        """The config as plain data, without `later` fields that are at their default: what a fingerprint
        or a protocol is made of."""
        fields = type(self).model_fields
        return self.model_dump(
            mode="json", exclude={name for name in self.later if getattr(self, name) == fields[name].default}
        )

    def again(self, recorded: Any) -> Any:
        """Give what was recorded of such a config, by an earlier version too, as it is recorded today, with the fields
        that came since at their defaults; what cannot be read as one of this type stays as it is."""
        try:
            return self.read(recorded).model_dump(mode="json")
        except ConfigError:
            return recorded

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """The docstrings under the fields, by field. Read from the source when asked for, which a listing never does;
        empty where the source is not at hand."""
        texts: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, Config):
                texts |= _field_docstrings(base)
        return {name: texts[name] for name in cls.model_fields if name in texts}


def _field_docstrings(cls: type[Config]) -> dict[str, str]:
    try:
        body = ast.parse(dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # a class made in a session or by code
        return {}
    texts: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for declared, below in pairwise(statements):
        match declared, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = inspect.cleandoc(text)
    return texts


class SamplingConfig(Config):
    """Base of the settings of use: how a decoder or a prior draws. A part without settings takes this one, which has
    none. All settings have defaults and are plain values, so that they can be saved and compared."""

    @model_validator(mode="before")
    @classmethod
    def _no_callback(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "on_step" in data:
            raise ConfigError.at("on_step", "is no setting; give it as an argument: decode(tokens, on_step=...)")
        return data

    @classmethod
    def quick(cls) -> Self:
        """Settings for a quick check: as few steps as still show all that drawing does. Those that take no time of
        their own stay as they are."""
        return cls()

    def laid(self, given: SamplingConfig | Mapping[str, Any] | None, place: str = "sampling") -> Self:
        """These settings with others laid on; whole settings stand for themselves.

        Raises:
            ConfigError: a setting that there is not, below `place`.
            ValueError: whole settings of another class, most of which would be ignored in silence.
        """
        if type(given) is type(self):
            return given
        if isinstance(given, SamplingConfig):
            own, other = type(self).__name__, type(given).__name__
            raise ValueError(f"this model's settings of use are {own}, not {other}; give those, or a mapping")
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError.at(place, f"is {given!r}, and settings are a mapping: {{name: value}}")
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return self.read(said | dict(given or {}), place)

    def by_step(self) -> Sequence[tuple[Self, int]]:
        """Settings, and how often each occurs, that together cost what these do. For estimates: a part that draws in
        many like steps gives one step of each kind."""
        return [(self, 1)]


class ComponentConfig(Config):
    """Base of all parts' configs. `type` names the part; its default is the name it is registered under."""

    kind: ClassVar[str]
    contract: ClassVar[str]
    """The abstract class that this kind's parts fulfil, as "module:attribute"."""
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Fields by size, of `tiny`, `small`, `base`, `large`; a size not listed is the fields' defaults."""
    type: str

    @classmethod
    def sized(cls, size: Size | None = None, /, **fields: Any) -> Any:
        """The config at a size, with `fields` set on top."""
        return cls.read({**cls.sizes.get(size or "", {}), **fields})

    def unused(self) -> tuple[str, ...]:
        """Parameters that receive no gradient by design, as their names within the part."""
        return ()

    def check(self, spec: Spec) -> None:
        """Raise `ValueError`, in one sentence, where this part cannot work with these widths."""

    def following(self, source: ComponentConfig, there: Spec, here: Spec) -> ComponentConfig:
        """This config as it must be to take the weights of a part of its type, where their meaning hangs on what no
        tensor holds: the grid that positions are stretched over.

        Args:
            source: that part's config.
            there: the widths of its model.
            here: this model's widths.

        Raises:
            ValueError: they cannot mean here what they mean there; in one sentence.
        """
        return self

    def obstacles(self, spec: Spec) -> Iterable[tuple[str, str]]:
        """Pairs of a field and a sentence on what keeps this part from learning, whatever the run. A run is refused
        for it; a model that is there already is not asked."""
        return ()

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        """Pairs of a field and a sentence on what a run of so many steps can do and is unlikely to be meant: a loss
        that is the widths' own, a setting without effect. Told before the first step; `run.strict` refuses them."""
        return ()
