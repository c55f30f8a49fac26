"""`show`: what a part or a model is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands import complete
from flexframe.commands.common import out, say


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A part (decoder/flow), a card, a card's file, a model file, or a run's folder.",
            autocompletion=complete.parts_and_models,
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print the resolved config as YAML, and nothing else.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, for the memory that they take.")] = 1,
) -> None:
    """Show a part's settings; or a model: parameters, tokens, bits, FLOPs and memory. Nothing is built to find out."""
    from flexframe_registry import ConfigError
    from flexframe_registry.kinds import KINDS

    kind, _, part = name.partition("/")
    if kind in KINDS:
        _show_part(kind, part)
        return
    from flexframe.commands import describe, subjects

    subject = subjects.find(name)
    if config and subject.unresolved:
        raise ConfigError(subject.doubts)
    if config:
        _print_yaml(subject.resolved)
        return
    with say.status("importing torch") as status:
        sizes, profile = _measure(subject, batch_size, lambda stage: status.update(f"measuring {stage}"))
    describe.tell(subject, sizes, profile)


def _measure(subject: Any, batch_size: int, on_stage: Any) -> tuple[Any, Any]:
    import torch

    from flexframe.models.build import build
    from flexframe.models.profile import measure, size_of
    from flexframe_registry import TokenizerConfig

    if isinstance(subject.config, TokenizerConfig):
        profile = measure(
            subject.config, subject.sampling, batch_size=batch_size, frozen=subject.frozen, on_stage=on_stage
        )
        return profile.parts, profile
    with torch.device("meta"):
        model = build(subject.config, subject.sampling)
    return [size_of(kind, getattr(subject.config, kind).type, part) for kind, part in model.named_children()], None


def _show_part(kind: str, name: str) -> None:
    from flexframe_registry import catalogue
    from flexframe_registry.kinds import DecoderConfig, PriorConfig
    from flexframe_registry.options import settings_of

    component = catalogue().get(kind, name)
    out.print(Text.assemble((f"{kind} {name}", "bold"), f"  ({component.provider})\n{component.config.__doc__}\n"))
    own = [(each.name, each.default, each.help) for each in settings_of(component.config) if each.name != "type"]
    out.print(_settings("setting", own))
    if issubclass(component.config, DecoderConfig | PriorConfig):
        drawn = [(each.option, each.default, each.help) for each in settings_of(component.config.sampling)]
        if drawn:
            out.print("\nhow it draws, on the command line or under a card's `sampling`", style="bold", markup=False)
            out.print(_settings("option", drawn))


def _settings(what: str, rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in (what, "default", "meaning"):
        table.add_column(column, no_wrap=column == what)
    for name, default, text in rows:
        table.add_row(name, default, text)
    return table


def _print_yaml(data: Any) -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump(json.loads(json.dumps(data)), sys.stdout)
