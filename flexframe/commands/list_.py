"""`list`: what is installed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import typer
from rich.table import Table

from flexframe.commands import complete
from flexframe.commands.common import out, say

OTHERS = ("card", "suite")
"""What is listed beside the kinds of parts."""


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="One kind, as quantizer, metric, card or suite.", autocompletion=complete.kinds)
    ] = None,
) -> None:
    """List parts, cards and suites, who provides each, and plugins that cannot be used."""
    from flexframe_registry import UnknownName, cards, catalogue
    from flexframe_registry.errors import nearest
    from flexframe_registry.kinds import KINDS

    known = (*KINDS, *OTHERS)
    wanted = kind if kind is None or kind in known else kind.removesuffix("s")
    if wanted is not None and wanted not in known:
        raise UnknownName(f"no kind named {kind!r}.{nearest(str(kind), known)} Known: {', '.join(known)}")
    print_list(known if wanted is None else [wanted])
    for broken in dict.fromkeys([*catalogue().broken, *cards().broken]):
        say.print(f"plugin {broken.plugin!r} ({broken.provider}) cannot be used: {broken.error}", style="yellow")


def print_list(kinds: Collection[str]) -> None:
    """Print a row for each part of these kinds, for each card where `card` is among them, for each suite at `suite`."""
    from flexframe_registry import cards, catalogue
    from flexframe_registry.files import read_yaml
    from flexframe_registry.suites import SUITES

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, style in (("kind", "dim"), ("name", "cyan"), ("what", ""), ("provided by", "dim")):
        table.add_column(name, style=style, no_wrap=name != "what")
    for kind in kinds:
        for name in catalogue().names(kind):
            component = catalogue().get(kind, name)
            table.add_row(kind, name, _first_line(component.config.__doc__), component.provider)
        for name in cards().names() if kind == "card" else ():
            weights, summary = _card_line(name)
            table.add_row("card" + weights, name, summary, "")
        for path in sorted(SUITES.glob("*.yaml")) if kind == "suite" else ():
            table.add_row("suite", path.stem, str(read_yaml(path).get("note", "")), "")
    out.print(table)
    if "card" in kinds:
        out.print("* ships trained weights", style="dim")


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _card_line(name: str) -> tuple[str, str]:
    from flexframe_registry import ConfigError, cards

    try:
        summary, weights = cards().line(name)
    except (ConfigError, LookupError) as error:
        return "", f"cannot be read: {error}"
    return "*" if weights else "", summary
