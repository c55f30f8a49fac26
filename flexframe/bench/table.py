"""The numbers of a run as a table for a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a row for each model and token count, then what could not be measured and why."""
    console = console or Console()
    measures = {n: m for n, m in results["measures"].items() if any_value(results, n)}
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("tokens", justify="right")
    table.add_column("model", overflow="fold", min_width=min(24, max(map(len, results["models"]))))
    table.add_column("bits", justify="right")
    for measure in measures.values():
        unit = f" {measure['unit']}" if measure["unit"] else ""
        table.add_column(f"{measure['label']}{unit}", justify="right", max_width=10)
    table.add_column("decode img/s", justify="right", max_width=6)
    for budget in results["budgets"]:
        best = {name: best_models(results, name, budget) for name in measures}
        for i, (model, entry) in enumerate(results["models"].items()):
            first = str(budget) if i == 0 else ""
            found = entry["budgets"].get(str(budget))
            if found is None:
                table.add_row(first, escape(model), *["–"] * (len(measures) + 2), style="dim")
                continue
            cells = []
            for name, measure in measures.items():
                text = shown(found["metrics"].get(name, {}).get("value"), measure)
                cells.append(f"[bold]{text}[/]" if model in best[name] else text)
            bits = shown_bits(found["bits"])
            table.add_row(first, escape(model), bits, *cells, f"{found['speed']['decode_images_per_second']:.0f}")
    console.print(table)
    for model, lacking in not_offered(results).items():
        console.print(
            f"[dim]{escape(model)} is not offered at {', '.join(map(str, lacking))} tokens[/]", highlight=False
        )
    notes = [f"{measure['label']}: {measure['note']}" for measure in measures.values() if measure["note"]]
    if notes:
        console.print(f"[dim]{escape('; '.join(notes))}[/]", highlight=False)
    for why, names in reasons(results).items():
        console.print(f"[dim]{escape(', '.join(names))}: not measured. {escape(why)}[/]", highlight=False)


def shown(value: float | None, measure: Mapping[str, Any]) -> str:
    """A number as it is printed, an en dash if there is none."""
    return "–" if value is None else f"{value:,.{measure['digits']}f}"


def shown_bits(bits: float | None) -> str:
    return "–" if bits is None else f"{bits:,.0f}" if bits >= 100 or bits == round(bits) else f"{bits:,.1f}"


def any_value(results: Mapping[str, Any], name: str) -> bool:
    """Whether any model has a number for this measure."""
    entries = (b for m in results["models"].values() for b in m["budgets"].values())
    return any(entry["metrics"].get(name, {}).get("value") is not None for entry in entries)


def best_models(results: Mapping[str, Any], name: str, budget: int) -> Sequence[str]:
    """The models with the best printed value at a token count; none where no two compete or no direction is better."""
    measure = results["measures"][name]
    values: dict[str, float] = {}
    for model, entry in results["models"].items():
        value = entry["budgets"].get(str(budget), {}).get("metrics", {}).get(name, {}).get("value")
        if value is not None:
            values[model] = round(value, measure["digits"])
    if measure["better"] is None or len(values) < 2 or len(set(values.values())) < 2:
        return []
    best = (max if measure["better"] == "higher" else min)(values.values())
    return [model for model, value in values.items() if value == best]


def not_offered(results: Mapping[str, Any]) -> dict[str, list[int]]:
    """By model, the token counts of other models that it does not support."""
    lacking = {
        name: [k for k in results["budgets"] if str(k) not in model["budgets"]]
        for name, model in results["models"].items()
    }
    return {name: counts for name, counts in lacking.items() if counts}


def reasons(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """Why numbers are missing, and which: labels of measures by reason, with the models where not all lack it."""
    lacking: dict[tuple[str, str], set[str]] = {}
    for model, entry in results["models"].items():
        for found in entry["budgets"].values():
            for name, number in found["metrics"].items():
                if number["value"] is None:
                    lacking.setdefault((number["why"], name), set()).add(model)
    told: dict[str, list[str]] = {}
    for (why, name), models in lacking.items():
        label = results["measures"][name]["label"]
        whose = "" if len(models) == len(results["models"]) else f" ({', '.join(sorted(models))})"
        told.setdefault(why, []).append(label + whose)
    return told
