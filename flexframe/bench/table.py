"""The numbers of a run as a table for a terminal of 100 columns: a column holds numbers of one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexframe.terminal import Terminal, visible


def columns(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each measure that has a number, and the id of what was measured, and how: several where protocols differ."""
    pairs: dict[tuple[str, str], None] = {}
    again = repeated(results)
    for name in (name for name in results["measures"] if name not in again):
        for model in results["models"].values():
            for entry in model["budgets"].values():
                number = entry["metrics"].get(name, {})
                if number.get("value") is not None:
                    pairs[name, measured(number)] = None
    return list(pairs)


def repeated(results: Mapping[str, Any]) -> dict[str, str]:
    """Measures whose numbers are, all of them, those of another measure, and that measure."""
    lanes = [entry["metrics"] for model in results["models"].values() for entry in model["budgets"].values()]
    return {
        name: about["repeats"]
        for name, about in results["measures"].items()
        if about.get("repeats") in results["measures"]
        and all(lane.get(name, {}).get("value") == lane.get(about["repeats"], {}).get("value") for lane in lanes)
    }


def measured(number: Mapping[str, Any]) -> str:
    """The part of a number's protocol that must be equal for it to compare with another: the part before the dot."""
    return str(number.get("protocol", "")).partition(".")[0]


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a row for each model and token count, then what could not be measured and why.

    A terminal that is too narrow for all numbers gets the first ones, and is told which it does not show.
    """
    console = console or Terminal()
    names_width = min(24, max(map(len, results["models"])))
    all_columns = columns(results)
    found_columns = all_columns[: max(3, (console.width - names_width - 22) // 11)]
    split = {name for name, _ in found_columns if sum(name == other for other, _ in found_columns) > 1}
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("tokens", justify="right")
    table.add_column("model", overflow="fold", min_width=names_width)
    table.add_column("bits", justify="right")
    for name, key in found_columns:
        measure = results["measures"][name]
        unit = f" {measure['unit']}" if measure["unit"] else ""
        told = f" [{key}]" if name in split else ""
        table.add_column(Text(f"{measure['label']}{unit}{told}"), justify="right", max_width=10)
    table.add_column("decode img/s", justify="right", max_width=6)
    for budget in results["budgets"]:
        best = {column: best_models(results, column[0], budget, column[1]) for column in found_columns}
        offered = [(m, entry["budgets"][str(budget)]) for m, entry in results["models"].items()
                   if str(budget) in entry["budgets"]]  # fmt: skip
        for i, (model, entry) in enumerate(offered):
            first = "" if i else str(budget or "–")  # samples from elsewhere do not tell theirs
            cells = list[Text]()
            for name, key in found_columns:
                number = entry["metrics"].get(name, {})
                alike = number.get("value") is not None and measured(number) == key
                text = shown(number["value"] if alike else None, results["measures"][name])
                cells.append(Text(text, "bold" if model in best[name, key] else ""))
            bits, speed = shown_bits(entry["bits"]), entry["speed"]["decode_images_per_second"]
            table.add_row(first, Text(visible(model)), bits, *cells, f"{speed:.0f}" if speed else "–")
    console.print(table)
    unseen = dict.fromkeys(results["measures"][name]["label"] for name, _ in all_columns[len(found_columns) :])
    if unseen:
        told = f"not shown for want of width, but in results.json: {', '.join(unseen)}"
        _note(console, told)
    for model, lacking in not_offered(results).items():
        _note(console, f"{model} is not offered at {', '.join(map(str, lacking))} tokens")
    if split:
        labels = ", ".join(results["measures"][name]["label"] for name in results["measures"] if name in split)
        told = f"{labels}: measured under several protocols, which do not compare; see `flexframe explain`"
        _note(console, told)
    seen = dict.fromkeys(name for name, _ in found_columns)
    measures = [results["measures"][name] for name in seen]
    notes = [f"{measure['label']}: {told}" for measure in measures if (told := _told(measure))]
    if notes:
        _note(console, "; ".join(notes))
    for why, names in reasons(results).items():
        _note(console, f"{', '.join(names)}: not measured. {why}")


def _told(measure: Mapping[str, Any]) -> str:
    """What is said of a measure's numbers: its note, and what comes by chance where it tells."""
    chance = measure.get("chance")
    by_chance = "" if chance is None else f"{chance:.{measure['digits']}f} by chance"
    return ", ".join(part for part in (measure["note"], by_chance) if part)


def _note(console: Console, text: str) -> None:
    console.print(Text(text), style="dim", highlight=False)


def shown(value: float | None, measure: Mapping[str, Any]) -> str:
    """A number as it is printed, an en dash if there is none."""
    digits = measure["digits"]
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # and no minus before zero


def shown_bits(bits: float | None) -> str:
    """A number of bits as text, a dash for continuous tokens."""
    return "–" if bits is None else f"{bits:,.0f}" if bits >= 100 or bits == round(bits) else f"{bits:,.1f}"


def best_models(results: Mapping[str, Any], name: str, budget: int, key: str | None = None) -> Sequence[str]:
    """The models with the best printed value at a token count; none where no two compete or no direction is better.

    Args:
        key: what was measured, and how; numbers of another protocol do not compete. Not given: none do where protocols
            differ.
    """
    measure = results["measures"][name]
    values: dict[str, float] = {}
    keys = set()
    for model, entry in results["models"].items():
        number = entry["budgets"].get(str(budget), {}).get("metrics", {}).get(name, {})
        if number.get("value") is not None and key in (None, measured(number)):
            values[model] = round(number["value"], measure["digits"])
            keys.add(measured(number))
    if measure["better"] is None or len(keys) > 1 or len(set(values.values())) < 2:
        return []
    best = (max if measure["better"] == "higher" else min)(values.values())
    return [model for model, value in values.items() if value == best]


def not_offered(results: Mapping[str, Any]) -> dict[str, list[int]]:
    """By model, the token counts of other models, and those that the suite asks for, that it does not support."""
    counts = sorted({*results["budgets"], *(results["suite"].get("budgets") or ())} - {0})
    told = {name: model["budgets"] for name, model in results["models"].items() if "0" not in model["budgets"]}
    lacking = {name: [k for k in counts if str(k) not in budgets] for name, budgets in told.items()}
    return {name: missing for name, missing in lacking.items() if missing}


def reasons(results: Mapping[str, Any]) -> dict[str, list[str]]:
    """The reasons why numbers are missing: labels of measures by reason, with the models where not all lack it."""
    lacking: dict[tuple[str, str], set[str]] = {}
    for model, entry in results["models"].items():
        for lane in entry["budgets"].values():
            for name, number in lane["metrics"].items():
                if number["value"] is None:
                    lacking.setdefault((number["why"], name), set()).add(model)
    told: dict[str, list[str]] = {}
    for (why, name), models in lacking.items():
        label = results["measures"][name]["label"]
        whose = "" if len(models) == len(results["models"]) else f" ({', '.join(sorted(models))})"
        told.setdefault(why, []).append(label + whose)
    return told
