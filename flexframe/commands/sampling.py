"""Settings of use on the command line: the model says which there are, so no command lists them.

`--steps 20` is a setting of the model's decoder or prior where the command itself has no such option, and stands for
`--set sampling.steps=20`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from flexframe.commands.common import refuse

if TYPE_CHECKING:
    from flexframe_registry.kinds import DecoderConfig, PriorConfig

GIVEN = "flexframe.sampling"
"""The place in a command's context where the settings that it took out of the line are kept."""

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="sampling.KEY=VALUE, the same as --KEY VALUE; repeatable."),
]


class Sampled(TyperCommand):
    """A command that takes the settings of a decoder or prior as options: `--guidance 2`, `--apg false`."""

    context_class = typer.Context

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        kept, settings = split_settings(args, own)
        ctx.meta[GIVEN] = settings
        return super().parse_args(ctx, kept)


def split_settings(args: Sequence[str], own: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments without the long options that are none of the command's `own`, and these by name, their `-` as `_`."""
    known, kept, settings, rest = set(own), list[str](), dict[str, str](), list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*kept, word, *rest], settings
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in known:
            kept.append(word)
            continue
        if not equals:
            follows = bool(rest) and (not rest[0].startswith("-") or _is_number(rest[0]))
            value = rest.pop(0) if follows else "true"
        settings[name.removeprefix("--").replace("-", "_")] = value
    return kept, settings


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_sampling(ctx: typer.Context, settings: Sequence[str] | None) -> dict[str, Any]:
    """Settings of use of a command's line: its own options' and those of `--set`; values are read as YAML.

    Raises:
        ConfigError: one that is given in both ways, or that is not of the form.
    """
    from flexframe_registry.files import split_override

    sampling = read_settings(read_prefixed(settings, "sampling"))
    for name, text in ctx.meta.get(GIVEN, {}).items():
        if name in sampling:
            refuse(option(name), f"and --set sampling.{name} both say so; give one of the two")
        sampling[name] = split_override(f"{name}={text}")[1]
    return sampling


def read_prefixed(settings: Sequence[str] | None, prefix: str) -> list[str]:
    """`prefix.key=value` without the prefix.

    Raises:
        ConfigError: a setting of another form.
    """
    for setting in settings or ():
        if not setting.startswith(f"{prefix}."):
            refuse(setting, f"is not of the form {prefix}.key=value")
    return [setting.removeprefix(f"{prefix}.") for setting in settings or ()]


def read_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`key.path=value` texts as nested data; values are read as YAML."""
    from flexframe_registry.files import put, split_override

    data: dict[str, Any] = {}
    for setting in settings:
        key, value = split_override(setting)
        data = put(data, key.split("."), value)
    return data


def check_sampling(
    ctx: typer.Context, sampling: Mapping[str, Any], part: DecoderConfig | PriorConfig, path: str = "sampling"
) -> None:
    """Refuse settings that a model's decoder or prior does not have, or that it cannot take.

    Raises:
        ConfigError: names the option as it was given, and the nearest right one of the command or of the part.
    """
    from flexframe_registry import ConfigError
    from flexframe_registry.errors import nearest

    known = [name for name, field in part.sampling.model_fields.items() if not field.exclude]
    for name in ctx.meta.get(GIVEN, {}):
        if name not in known:
            own = [opt for parameter in ctx.command.params for opt in parameter.opts if opt.startswith("--")]
            takes = ", ".join(map(option, known)) or "none"
            text = f"is no option of this command and no setting of {part.kind} {part.type!r}"
            near = nearest(option(name), [*own, *map(option, known)])
            raise ConfigError.at(option(name), f"{text}.{near} Of that one there are: {takes}")
    part.sampling.read(dict(sampling), path)


def option(name: str) -> str:
    """A setting's name as an option."""
    return f"--{name.replace('_', '-')}"
