"""`doctor`: what is installed, and whether it works."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands.common import out, print_json, say
from flexframe.commands.options import AsJson

EXAMPLES = (
    "flexframe doctor",
    "flexframe doctor --json",
)

_MARKS = {"ok": ("", ""), "missing": ("missing: ", "yellow"), "broken": ("BROKEN: ", "bold red")}


def doctor(
    as_json: AsJson = False,
) -> None:
    """Say what is installed and works, and what is missing for what. Exit code 1 if something installed is broken."""
    from flexframe.doctor import examine

    with say.status("looking") as status:
        findings = examine(lambda section: status.update(f"looking at {section}"))
    broken = sum(each.state == "broken" for each in findings)
    if as_json:
        print_json({"usable": not broken, "findings": [asdict(each) for each in findings]})
    else:
        for section in dict.fromkeys(each.section for each in findings):
            table = Table(box=None, show_header=False, pad_edge=False)
            table.add_column(style="cyan", min_width=16)
            table.add_column(overflow="fold")
            for each in (each for each in findings if each.section == section):
                mark, style = _MARKS[each.state]
                table.add_row(each.name, Text(mark + each.text, style=style))
            out.print(f"\n{section}", style="bold")
            out.print(table)
        missing = sum(each.state == "missing" for each in findings)
        verdict = f"{broken} broken" if broken else "nothing that is installed is broken"
        out.print(f"\n{verdict}; {missing} missing, which matters only where it is needed", style="bold")
    if broken:
        raise typer.Exit(1)
