"""`explain`: why the numbers of two results differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexframe.commands.common import out

EXAMPLES = ("flexframe explain mine/results.json theirs/results.json",)

Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results.json, or the folder that holds it.")]


def explain(first: Results, second: Results) -> None:
    """Say whether two results compare, and what is between them: each difference of protocol, with its usual size."""
    from flexframe.bench.explain import explain as run
    from flexframe.bench.results import FILE, read

    files = [path / FILE if path.is_dir() else path for path in (first, second)]
    explanation = run(*map(read, files))
    _print_numbers(explanation)
    _print_differences(explanation)
    for pair in explanation.unexplained:
        told = f"{pair.measure} of {pair.models[0]} at {pair.budget} tokens differs"
        out.print(f"{told}, and nothing in the protocols does: please report it", style="red", soft_wrap=True)
    if explanation.rounded:
        most = max(explanation.rounded)
        told = f"{len(explanation.rounded)} numbers differ by rounding, by {most:.0e} of their value at most"
        out.print(f"{told}: processors and builds of libraries do that", style="dim", soft_wrap=True)
    for note in explanation.notes:
        out.print(note, style="dim", markup=False, soft_wrap=True)


def _print_numbers(explanation: Any) -> None:
    """A row a measure, at the largest token count that both have."""
    from rich.table import Table
    from rich.text import Text

    largest: dict[tuple[str, tuple[str, str]], Any] = {}
    for pair in explanation.pairs:
        key = pair.measure, pair.models
        if key not in largest or pair.budget > largest[key].budget:
            largest[key] = pair
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("number", "model", "tokens", "first", "second", "compare?"):
        table.add_column(name, justify="right" if name in ("tokens", "first", "second") else "left", overflow="fold")
    for (measure, (a, b)), pair in largest.items():
        values = [number["value"] for number in (pair.first, pair.second)]
        if values == [None, None]:
            continue
        verdict = "" if None in values else "yes" if pair.comparable else Text("no", "red")
        whose = a if a == b else f"{a}, {b}"
        cells = (_number(pair.first), _number(pair.second))
        table.add_row(measure, whose, str(pair.budget), *cells, verdict)
    out.print(table)
    missing = {
        (pair.measure, which, number["why"])
        for pair in explanation.pairs
        for which, number in (("first", pair.first), ("second", pair.second))
        if number["value"] is None
    }
    for measure, which, why in sorted(missing):
        out.print(f"the {which} has no {measure}: {why}", style="dim", markup=False, soft_wrap=True)


def _number(number: Any) -> str:
    return "–" if number["value"] is None else f"{number['value']:,.5g}"


def _print_differences(explanation: Any) -> None:
    from rich.text import Text

    differences = explanation.differences
    if not differences:
        out.print("\nThe protocols are equal: numbers compare, and what is between them is chance or the models'.")
        return
    every = {pair.measure for pair in explanation.pairs}
    forbidding = [difference for difference, _ in differences if difference.forbids]
    if not forbidding:
        out.print("\nMeasured alike: numbers compare. What is between them:")
    elif all(not pair.comparable for pair in explanation.pairs):
        out.print("\nThese results do not compare. What is between them:")
    else:
        out.print("\nNot all of these numbers compare. What is between them:")
    for difference, names in differences:
        mark = Text("✗", "red") if difference.forbids else Text("·")
        whose = "" if set(names) == every else f" ({', '.join(names)})"
        out.print(Text.assemble("\n", mark, " ", (difference.cause.name, "bold"), whose), highlight=False)
        for name, a, b in difference.details[:6]:
            out.print(f"    {name}: {a} → {b}", markup=False, highlight=False, soft_wrap=True)
        if len(difference.details) > 6:
            out.print(f"    and {len(difference.details) - 6} more settings", style="dim")
        out.print(f"    usual size: {difference.cause.size}", style="dim", markup=False, highlight=False)
