"""`list`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from flexframe.commands import complete
from flexframe.commands.common import out, say


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="One kind, as quantizer or metric.", autocompletion=complete.kinds)
    ] = None,
) -> None:
    """List parts, cards and suites, who provides each, and plugins that cannot be used."""
    from flexframe_registry import UnknownName, cards, catalogue
    from flexframe_registry.errors import nearest
    from flexframe_registry.files import read_yaml
    from flexframe_registry.kinds import KINDS
    from flexframe_registry.suites import SUITES

    if kind is not None and kind not in KINDS:
        raise UnknownName(f"no kind named {kind!r}.{nearest(kind, KINDS)} Known: {', '.join(KINDS)}")
    installed = catalogue()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, style in (("kind", "dim"), ("name", "cyan"), ("what", ""), ("provided by", "dim")):
        table.add_column(name, style=style, no_wrap=name != "what")
    for each in [kind] if kind else KINDS:
        for name in installed.names(each):
            component = installed.get(each, name)
            table.add_row(each, name, _first_line(component.config.__doc__), component.provider)
    if kind is None:
        for name in cards().names():
            weights, summary = _card_line(name)
            table.add_row("card" + weights, name, summary, "")
        for path in sorted(SUITES.glob("*.yaml")):
            table.add_row("suite", path.stem, str(read_yaml(path).get("note", "")), "")
    out.print(table)
    if kind is None:
        out.print("* ships trained weights", style="dim")
    for broken in dict.fromkeys([*installed.broken, *cards().broken]):
        say.print(f"plugin {broken.plugin!r} ({broken.provider}) cannot be used: {broken.error}", style="yellow")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _card_line(name: str) -> tuple[str, str]:
    from flexframe_registry import ConfigError, cards

    try:
        summary, weights = cards().line(name)
    except (ConfigError, LookupError) as error:
        return "", f"cannot be read: {error}"
    return "*" if weights else "", summary
