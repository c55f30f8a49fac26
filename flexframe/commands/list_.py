"""`list`: what is installed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.segment import Segment, Segments
from rich.style import Style

from flexframe.commands import complete
from flexframe.commands.common import out, print_json, say
from flexframe.commands.options import AsJson

EXAMPLES = (
    "flexframe list",
    "flexframe list quantizer",
    "flexframe list card --json",
)

OTHERS = ("card", "suite")
"""What is listed beside the kinds of parts."""
TITLES = ("kind", "name", "what", "provided by")
STYLES = ("dim", "cyan", "", "dim")
WRAPPED = TITLES.index("what")
NARROWEST = 40
"""Cells of what a thing is, below which who provides it is left out."""


def list_(
    kind: Annotated[
        str | None, typer.Argument(help="One kind, as quantizer, metric, card or suite.", autocompletion=complete.kinds)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List parts, cards and suites, who provides each, and plugins that cannot be used."""
    from flexframe_registry import UnknownName, cards, catalogue
    from flexframe_registry.errors import nearest
    from flexframe_registry.kinds import KINDS

    known = (*KINDS, *OTHERS)
    wanted = kind if kind is None or kind in known else kind.removesuffix("s")
    if wanted is not None and wanted not in known:
        raise UnknownName(f"no kind named {kind!r}.{nearest(str(kind), known)} Known: {', '.join(known)}")
    kinds = known if wanted is None else [wanted]
    if as_json:
        print_json([asdict(row) for row in rows(kinds)])
    else:
        print_list(kinds)
    for broken in dict.fromkeys([*catalogue().broken, *cards().broken]):
        say.print(f"plugin {broken.plugin!r} ({broken.provider}) cannot be used: {broken.error}", style="yellow")


@dataclass(frozen=True)
class Row:
    """One thing that is installed."""

    kind: str
    name: str
    what: str
    provider: str = ""
    weights: bool | None = None
    """Of a card: whether it has trained weights."""


def rows(kinds: Collection[str]) -> Iterator[Row]:
    """Each part of these kinds, each card where `card` is among them, each suite at `suite`."""
    from flexframe_registry import cards, catalogue
    from flexframe_registry.files import read_top
    from flexframe_registry.suites import SUITES

    for kind in kinds:
        for name in catalogue().names(kind):
            component = catalogue().get(kind, name)
            yield Row(kind, name, _first_line(component.config.__doc__), component.provider)
        for name in cards().names() if kind == "card" else ():
            weights, summary = _card_line(name)
            yield Row("card", name, summary, weights=weights)
        for path in sorted(SUITES.glob("*.yaml")) if kind == "suite" else ():
            yield Row("suite", path.stem, str(read_top(path, ("note",)).get("note", "")))


def print_list(kinds: Collection[str]) -> None:
    """Print `rows` in columns; who provides what is left out where a terminal is too narrow for both."""
    cells = [(row.kind + "*" * bool(row.weights), row.name, row.what, row.provider) for row in rows(kinds)]
    widths = [max(map(cell_len, column)) for column in zip(TITLES, *cells, strict=True)]
    room = out.width - sum(widths) - 2 * (len(widths) - 1) + widths[WRAPPED]
    if room < NARROWEST:
        widths.pop()
        room = max(out.width - sum(widths) - 2 * (len(widths) - 1) + widths[WRAPPED], NARROWEST // 2)
    widths[WRAPPED] = min(widths[WRAPPED], room)
    pieces = _line(TITLES, widths, ("bold",) * len(TITLES))
    for row in cells:
        pieces += _line(row, widths, STYLES)
    out.print(Segments(pieces), end="")
    if "card" in kinds:
        out.print("* ships trained weights", style="dim")


def _line(row: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> list[Segment]:
    """A row of a listing; its widest cell goes on below. Rich's tables take a fifth of the command's time for it."""
    wrapped = wrap(row[WRAPPED], widths[WRAPPED], break_on_hyphens=False) or [""]
    pieces = []
    for i, part in enumerate(wrapped):
        texts = [part if at == WRAPPED else "" if i else text for at, text in enumerate(row[: len(widths)])]
        for text, width, style in zip(texts, widths, styles, strict=False):
            pieces.append(Segment(text, Style.parse(style)))
            pieces.append(Segment(" " * (width - cell_len(text) + 2)))
        pieces[-1] = Segment.line()
    return pieces


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _card_line(name: str) -> tuple[bool, str]:
    from flexframe_registry import ConfigError, cards

    try:
        summary, weights = cards().line(name)
    except (ConfigError, LookupError) as error:
        return False, f"cannot be read: {error}"
    return bool(weights), summary
