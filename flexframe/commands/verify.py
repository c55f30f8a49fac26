"""`verify`: an import against what the reference computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flexframe.commands.common import out, say
from flexframe.commands.import_ import As, Assume, Drop, Entry, Rename, assumptions, renames

EXAMPLES = (
    "flexframe verify imported",
    "flexframe verify cases/a cases/b --table parity.md",
)


def verify(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Checkpoints with case*.safetensors beside.")],
    table: Annotated[Path | None, typer.Option(help="Also write the errors as a Markdown table.")] = None,
    assume: Assume = None,
    drop: Drop = None,
    rename: Rename = None,
    entry: Entry = "",
    importer: As = None,
) -> None:
    """Compare an import with what the reference computed, on a CPU as it did: is each largest error within bounds?"""
    from flexframe.importing.verify import markdown, titles, verify_folder
    from flexframe.terminal import Bars

    runs: list[tuple[str, Any]] = []
    with Bars(say) as progress:
        task = progress.add_task("verify", total=len(folders))
        for each in folders:
            progress.update(task, description=each)
            given: dict[str, Any] = {
                "assume": assumptions(assume),
                "drop": drop or [],
                "rename": renames(rename),
                "entry": entry,
            }
            comparisons = verify_folder(Path(each), **given, importer=importer)
            runs.append((each, comparisons))
            progress.advance(task)
    for each, comparisons in runs:
        _print_comparisons(each, comparisons)
    if table is not None:
        from flexframe.files import write_text

        names = titles([Path(each) for each in folders])
        table.parent.mkdir(parents=True, exist_ok=True)
        write_text(table, markdown(list(zip(names, (comparisons for _, comparisons in runs), strict=True))))
        out.print(f"table: {table}", soft_wrap=True)
    failed = sum(not c.passed for _, comparisons in runs for c in comparisons)
    if failed:
        say.print(f"{failed} tensors are past their tolerance", style="red")
        raise typer.Exit(1)


def _print_comparisons(folder: str, comparisons: Any) -> None:
    from flexframe.importing.compare import summary

    table = Table(box=None, header_style="bold", pad_edge=False, title=Text(folder), title_justify="left")
    table.add_column("case", style="dim")
    table.add_column("tensor", overflow="fold")
    for name in ("largest error", "may be", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for c in comparisons:
        error = f"{c.error:.0f} of {c.largest:.0f} differ" if c.exact else f"{c.error:.1e}"
        verdict = Text("ok", "green") if c.passed else Text("NO", "red")
        table.add_row(c.case, f"{c.tensor} {c.note}".strip(), error, "0" if c.exact else f"{c.tolerance:.0e}", verdict)
    out.print(table)
    out.print(summary(comparisons), style="dim", highlight=False)
    out.print()
