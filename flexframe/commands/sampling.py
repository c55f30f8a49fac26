"""Settings of use on the command line: the model says which there are, so no command lists them.

`--steps 20` is a setting of the model's decoder or prior where the command itself has no such option, and stands for
`--set sampling.steps=20`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from flexframe.commands.common import refuse

if TYPE_CHECKING:
    from flexframe_registry.kinds import DecoderConfig, PriorConfig

GIVEN = "flexframe.sampling"
"""The place in a command's context where the words are kept that it took out of the line."""

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="sampling.KEY=VALUE, the same as --KEY VALUE; repeatable."),
]


class Sampled(TyperCommand):
    """A command that takes the settings of a decoder or prior as options: `--guidance 2`, `--apg false`."""

    context_class = typer.Context

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = [option for parameter in self.get_params(ctx) for option in parameter.opts]
        kept, ctx.meta[GIVEN] = split_settings(args, own)
        return super().parse_args(ctx, kept)


def split_settings(args: Sequence[str], own: Iterable[str]) -> tuple[list[str], list[str]]:
    """Arguments without the long options that are none of the command's `own`; and these, with their values."""
    known, kept, settings, rest = set(own), list[str](), list[str](), list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*kept, word, *rest], settings
        name, equals, _ = word.partition("=")
        if not name.startswith("--") or name in known:
            kept.append(word)
            continue
        settings.append(word)
        if not equals and rest and not re.match(r"--?[a-zA-Z]", rest[0]):
            settings.append(rest.pop(0))
    return kept, settings


def read_sampling(
    ctx: typer.Context, part: DecoderConfig | PriorConfig, settings: Sequence[str] | None
) -> dict[str, Any]:
    """Settings of use of a model's decoder or prior, by name, from a command's line.

    Raises:
        ConfigError: a setting that this part does not have, with the nearest right option; one given in two ways; a
            value that it cannot take.
    """
    from flexframe_registry.errors import nearest
    from flexframe_registry.options import read_settings, settings_of

    given = ctx.meta.get(GIVEN, [])
    known = [setting.option for setting in settings_of(part.sampling)]
    bare = {f"--no-{option.removeprefix('--')}" for option in known}
    for word in given:
        name = word.partition("=")[0]
        if re.match("--[a-zA-Z]", name) and name not in known and name not in bare:
            own = [option for parameter in ctx.command.params for option in parameter.opts if option.startswith("--")]
            text = f"is no option of this command and no setting of {part.kind} {part.type!r}"
            there = f"Of that one there are: {', '.join(known)}" if known else "That one has none"
            refuse(name, f"{text}.{nearest(name, [*own, *known])} {there}")
    return read_settings(part.sampling, given, settings or ())
