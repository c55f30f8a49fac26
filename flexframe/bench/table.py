"""The numbers of a run as a table that fits its terminal: a column holds numbers of one protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flexframe.terminal import Terminal, visible

PLAIN = 110
"""Letters in a line of a table that goes to no terminal."""
FEWEST = 3
"""Numbers that the narrowest terminal is shown."""


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
    """Print a row for each model and token count, then once what the columns are, and what could not be measured and
    why.

    Where not all numbers have room, the first of each metric go before the others, and what is left out is named.
    """
    console = console or Terminal()
    width = console.width if console.is_terminal else min(console.width, PLAIN)
    names_width, all_columns = min(max(24, width // 4), max(map(len, results["models"]))), columns(results)
    by_worth, unbound = in_turn(all_columns, results["measures"]), console.options.update_width(1000)
    for room in range(len(by_worth), -1, -1):
        found_columns = [column for column in all_columns if column in by_worth[:room]]
        table = _table(results, found_columns, names_width)
        if room <= FEWEST or console.measure(table, options=unbound).maximum <= width:
            break
    console.print(table, width=width)
    for text in _notes(results, all_columns, found_columns):
        console.print(Text(text), style="dim", highlight=False, width=width)


def in_turn(all_columns: Sequence[tuple[str, str]], measures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Columns by how much they tell: the first of every metric, of what two judge the first, then the others."""
    seen, first = set[str](), []
    for name, key in all_columns:
        if not seen & {key, short(measures[name])}:
            first.append((name, key))
        seen |= {key, short(measures[name])}
    return [*first, *(column for column in all_columns if column not in first)]


def short(measure: Mapping[str, Any]) -> str:
    """A measure's label without who measured."""
    return str(measure["label"]).removesuffix(f", {measure.get('by')}")


def _table(results: Mapping[str, Any], found: Sequence[tuple[str, str]], names_width: int) -> Table:
    split, labels = _split(found), [short(results["measures"][name]) for name, _ in found]
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("tokens", justify="right")
    table.add_column("model", overflow="fold", width=names_width)
    table.add_column("bits", justify="right")
    for name, key in found:
        measure = results["measures"][name]
        label = short(measure) if labels.count(short(measure)) == 1 else measure["label"]
        unit = f" {measure['unit']}" if measure["unit"] else ""
        told = f" [{key}]" if name in split else ""
        table.add_column(Text(f"{label}{unit}{told}"), justify="right", max_width=10)
    table.add_column("decode img/s", justify="right", max_width=6)
    for budget in results["budgets"]:
        best = {column: best_models(results, column[0], budget, column[1]) for column in found}
        offered = [(m, entry["budgets"][str(budget)]) for m, entry in results["models"].items()
                   if str(budget) in entry["budgets"]]  # fmt: skip
        for i, (model, entry) in enumerate(offered):
            first = "" if i else str(budget or "–")  # samples from elsewhere do not tell theirs
            cells = list[Text]()
            for name, key in found:
                number = entry["metrics"].get(name, {})
                alike = number.get("value") is not None and measured(number) == key
                text = shown(number["value"] if alike else None, results["measures"][name])
                cells.append(Text(text, "bold" if model in best[name, key] else ""))
            bits, speed = shown_bits(entry["bits"]), entry["speed"]["decode_images_per_second"]
            table.add_row(first, Text(visible(model)), bits, *cells, f"{speed:.0f}" if speed else "–")
    return table


def _split(found: Sequence[tuple[str, str]]) -> set[str]:
    """Measures that have several columns, one a protocol."""
    names = [name for name, _ in found]
    return {name for name in names if names.count(name) > 1}


def _notes(
    results: Mapping[str, Any], all_columns: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """What stands below the table, each thing once."""
    measures = results["measures"]
    names = list(dict.fromkeys(name for name, _ in found))
    told: dict[str, list[str]] = {}
    for name in names:
        told.setdefault(measures[name]["note"], []).append(name)
    for note, those in told.items():
        chances = {
            short(measures[n]): shown(measures[n]["chance"], measures[n]) for n in those if "chance" in measures[n]
        }
        by_chance = ", ".join(value if len(those) == 1 else f"{label} {value}" for label, value in chances.items())
        parts = [note, f"by chance {by_chance}" if chances else ""]
        if any(parts):
            yield f"{_called(measures, those)}: {'; '.join(filter(None, parts))}"
    for by, who in dict.fromkeys((measures[n].get("by"), measures[n].get("who")) for n in names):
        if by and who:
            yield f"{by}: {who}"
    unseen = list(dict.fromkeys(name for name, _ in all_columns if name not in names))
    if unseen:
        yield f"also measured, in results.json and not here for want of width: {_called(measures, unseen)}"
    lacking = [f"{m} is not offered at {', '.join(map(str, k))} tokens" for m, k in not_offered(results).items()]
    if lacking:
        yield "; ".join(lacking)
    if split := [name for name in measures if name in _split(found)]:
        apart = "measured under several protocols, which do not compare; see `flexframe explain`"
        yield f"{_called(measures, split)}: {apart}"
    for why, labels in reasons(results).items():
        yield f"{', '.join(labels)}: not measured. {why}"


def _called(measures: Mapping[str, Any], names: Sequence[str]) -> str:
    """Measures by their labels, who measured once behind those that it did."""
    by: dict[str, list[str]] = {}
    for name in names:
        by.setdefault(measures[name].get("by") or "", []).append(short(measures[name]))
    return "; ".join(", ".join(labels) + (f" ({judge})" if judge else "") for judge, labels in by.items())


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
