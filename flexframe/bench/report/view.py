"""The content of the page, worked out of a run's results. Nothing here knows a metric or a method by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from flexframe.bench import extremes, intervals
from flexframe.bench.report import charts, training, verdicts
from flexframe.bench.report.conclusion import conclusion
from flexframe.bench.report.numbers import Column, Numbers
from flexframe.bench.report.pictures import QUALITY, Sheets
from flexframe.bench.report.samples import Drawn
from flexframe.bench.report.verdicts import listed, spread, tokens
from flexframe.bench.table import reasons, shown, shown_bits

STOPS = 12
COLUMNS = 8
CHARTS = 6
"""Curves that show at once; the others unfold."""
IN_TABLE = 7
"""Numbers beside each other in a table, so that it fits a window of 1400 pixels with their intervals below them."""
IN_VERDICTS = 6
ROWS = 14
"""Verdicts that show at once; the others unfold."""


def stops(results: Mapping[str, Any]) -> list[int]:
    """The token counts that the page shows: all where they are few, else powers of two and each model's ends."""
    budgets: list[int] = results["budgets"]
    if len(budgets) <= STOPS:
        return budgets
    ends: set[int] = set()
    for model in results["models"].values():
        own = [int(k) for k in model["budgets"]]
        ends |= {min(own), max(own)} if own else set()
    return [k for k in budgets if k & (k - 1) == 0 or k in ends]


def view(
    results: Mapping[str, Any], sheets: Sheets, gallery: int, left_out: int, drawn: Sequence[Drawn]
) -> dict[str, Any]:
    """The template's variables.

    Args:
        gallery: how many images of the sheets are the suite's first ones; the others are best and worst ones.
        left_out: pictures that did not fit on the page.
    """
    names, chosen, numbers = list(results["models"]), stops(results), Numbers(results)
    measures = results["measures"]
    judged = verdicts.judge(numbers)
    rows = [_row(numbers, name, sheets, chosen) for name in names] if sheets.count else []
    start = _start(results, chosen)
    drawn_charts = [_chart(numbers, column) for column in _in_turn(numbers.columns)]
    return {
        "results": results,
        "names": names,
        "numbers": numbers,
        "lead": numbers.lead,
        "stops": chosen,
        "labelled": chosen if len(chosen) <= 9 else spread(chosen, 9),
        "start": start,
        "sheets": sheets,
        "gallery": range(gallery),
        "left_out": left_out,
        "quality": QUALITY,
        "headline": _headline(results),
        "conclusion": conclusion(numbers, judged),
        "hero": _hero(numbers, sheets, chosen),
        "rows": rows,
        "data": {
            "stops": chosen,
            "start": start,
            "models": _lanes(rows),
            "axis": _axis(results),
            "columns": sheets.columns,
            "count": sheets.count,
            "gallery": gallery,
            "numbers": list(sheets.numbers),
            "unit": (numbers.lead.unit or numbers.lead.label) if numbers.lead else "",
        },
        "charts": drawn_charts,
        "plain_levels": any(level.model is None for c in drawn_charts for d in c["drawn"] for level in d.levels),
        "described": [_chart(numbers, column) for column in numbers.columns if not column.directed],
        "books": _books(results),
        "surprise": _surprise(results),
        "verdicts": judged,
        "CHARTS": CHARTS,
        "ROWS": ROWS,
        "SIGNS": verdicts.SIGNS,
        "strengths": verdicts.strengths(numbers, judged),
        "drawing": [_drawing(prior) for prior in drawn],
        "training": {name: training.of(results, name) for name in names},
        "settings": {name: settings(results["models"][name]["sampling"]) for name in names},
        "draws": _draws(results),
        "codec_of": {name: verdicts.clients(results, name) for name in names},
        "unmodelled": _unmodelled(results, drawn),
        "ends": _ends(numbers),
        "notes": _notes(numbers.columns),
        "listed": listed,
        "tables": packed(numbers.columns, IN_TABLE),
        "judged_tables": packed(judged.columns, IN_VERDICTS),
        "compared": lambda rows, places: [row for row in rows if any(row.cells[i] for i in places)],
        "judge": verdicts.judge_of(numbers),
        "judges": training.judges(results),
        "continuous": [name for name in names if results["models"][name]["bits_per_token"] is None],
        "compared_ends": lambda values, places: any(values[i] for i in places),
        "repeated": [(measures[a]["label"], measures[b]["label"]) for a, b in numbers.repeated.items()],
        "extremes": _extremes(numbers, sheets) if sheets.count else [],
        "drawn": drawn,
        "table": _table(numbers, chosen),
        "how_sure": _how_sure(numbers),
        "missing": {coded(why): labels for why, labels in reasons(results).items()},
        "parts": ["encoder", "quantizer", "decoder", "codec"],
        "count": lambda n: f"{n:,}",
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        "bits": shown_bits,
        "tokens": tokens,
    }


def packed(columns: Sequence[Column], most: int) -> list[list[int]]:
    """Places of columns, table by table: those of one metric stay together, each where there first is room."""
    groups: dict[str, list[int]] = {}
    for place, column in enumerate(columns):
        groups.setdefault(column.protocol, []).append(place)
    tables: list[list[int]] = []
    for group in groups.values():
        for start in range(0, len(group), most):
            part = group[start : start + most]
            room = next((table for table in tables if len(table) + len(part) <= most), None)
            if room is None:
                tables.append(part)
            else:
                room += part
    return tables


def _in_turn(columns: Sequence[Column]) -> list[Column]:
    """Columns with a better end: the first of every metric, then the others; one that two judge is a first once."""
    directed, seen = [column for column in columns if column.directed], set[str]()
    first = []
    for column in directed:
        if not seen & {column.protocol, column.short}:
            first.append(column)
        seen |= {column.protocol, column.short}
    return [*first, *(column for column in directed if column not in first)]


def _ends(numbers: Numbers) -> list[tuple[str, list[str]]]:
    """Rows below those of models: what the originals come to, and guessing; a dash where that is not known."""
    rows = [
        ("the originals", [numbers.original(column) for column in numbers.columns]),
        ("by chance", [column.chance for column in numbers.columns]),
    ]
    pairs = [(name, list(zip(numbers.columns, values, strict=True))) for name, values in rows]
    return [(name, [c.text(v) if v is not None else "" for c, v in row]) for name, row in pairs]


def _notes(columns: Sequence[Column]) -> dict[str, str]:
    """What measures are: labels by note, as two columns of a list."""
    told: dict[str, list[str]] = {}
    for column in columns:
        if column.measure["note"] and column.label not in told.setdefault(column.measure["note"], []):
            told[column.measure["note"]].append(column.label)
    return {note: ", ".join(labels) for note, labels in told.items()}


def settings(sampling: Mapping[str, Any]) -> str:
    """Settings of sampling in words, without those of what is off."""
    off = {f"{name}_" for name, value in sampling.items() if value is False}
    told = []
    for name, value in sampling.items():
        if isinstance(value, Mapping):
            told.append(f"{name}: {settings(value) or 'nothing to set'}")
        elif value is not False and not any(name.startswith(each) for each in off):
            told.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(told)


def _draws(results: Mapping[str, Any]) -> str:
    """A sentence on whose decoders draw what tokens leave open, where some do and some do not."""
    drawing = [name for name, model in results["models"].items() if model["sampling"]]
    others = [name for name in results["models"] if name not in drawing]
    if not drawing or not others or "tokenizer" in results["models"][drawing[0]]:
        return ""
    one = len(drawing) == 1
    return (
        f"The decoder{'' if one else 's'} of {listed(drawing)} {'is' if one else 'are'} generative: what the tokens "
        "leave open is drawn at random, one picture of many that would fit, which costs where pixels are compared with "
        f"pixels. {'That' if len(others) == 1 else 'Those'} of {listed(others)} always "
        f"{'gives' if len(others) == 1 else 'give'} the same picture."
    )


def _unmodelled(results: Mapping[str, Any], drawn: Sequence[Drawn]) -> list[tuple[str, str]]:
    """Models of whose tokens no prior here draws, and why, as far as that shows."""
    known = {prior.of for prior in drawn}
    if None in known:
        return []
    rest = {name: model for name, model in results["models"].items() if name not in known}
    continuous = any(results["models"][name]["bits_per_token"] is None for name in known & results["models"].keys())
    why = "" if continuous else "its tokens are continuous, and these priors draw codes"
    return [(name, why if model["bits_per_token"] is None else "") for name, model in rest.items()]


def _axis(results: Mapping[str, Any]) -> str:
    """The axis on which curves begin: bits where a token is not of one size in all models, so that they compare."""
    sizes = [model["bits_per_token"] for model in results["models"].values()]
    return "bits" if len(set(sizes)) > 1 and any(sizes) else "tokens"


def _drawing(prior: Drawn) -> str:
    """A sentence on what a classifier sees in the samples of a prior, by length."""
    told = [f"{row.right} of {row.count} at {tokens(row.length)}" for row in prior.rows if row.right is not None]
    seen = f": the {prior.judge} sees the class asked for in {', '.join(told)}" if told else ""
    return f"Samples that the prior {prior.prior} draws are below{seen}."


def coded(text: str) -> Markup:
    """A sentence with its `names` set as code and a capital at its start; all else escaped."""
    parts = [escape(part) for part in (text[:1].upper() + text[1:]).split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _headline(results: Mapping[str, Any]) -> str:
    most, least = max(results["budgets"], default=0), min(results["budgets"], default=0)
    span = f"{least} to {tokens(most)}" if least != most else tokens(most)
    count, spans = len(results["models"]), {tuple(map(int, m["budgets"])) for m in results["models"].values()}
    words = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
    whose = next(iter(results["models"])) if count == 1 else f"{words.get(count, count)} models"
    if len({(min(own), max(own)) for own in spans if own}) > 1:
        return f"The same images, rebuilt by {whose}, each at its own numbers of tokens"
    return f"The same images, rebuilt by {whose} from {span}"


def _start(results: Mapping[str, Any], chosen: Sequence[int]) -> int:
    """The slider's first place: where most models can be compared, first those at that very count."""

    def seen(k: int) -> tuple[int, int]:
        own = [[int(b) for b in m["budgets"]] for m in results["models"].values()]
        return sum(k in counts for counts in own), sum(min(counts, default=k + 1) <= k for counts in own)

    return max(range(len(chosen)), key=lambda i: (*seen(chosen[i]), -i), default=0)


def millions(count: int) -> str:
    """A number of parameters as text."""
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:,.0f} k"


def _hero(numbers: Numbers, sheets: Sheets, chosen: Sequence[int]) -> dict[str, Any] | None:
    """One image by every model at every token count: rows and columns of the first thing that is seen."""
    if not sheets.count or not chosen:
        return None
    columns, rows = spread(chosen, COLUMNS), []
    for name, model in numbers.results["models"].items():
        own = [k for k in chosen if k in sheets.fake.get(name, {})]
        if own and not set(own) & set(columns):
            columns = sorted({*columns, own[-1]})
        each = model["bits_per_token"]
        size = "continuous tokens" if each is None else f"{shown_bits(each)} bits a token"
        codec, others = model["parameters"]["codec"], verdicts.clients(numbers.results, name)
        about = [f"{millions(model['parameters']['total'] + codec)} parameters{' with codec' if codec else ''}", size]
        about += ["decoder draws at random"] if model["sampling"] else []
        about += (
            [f"codec of {len(others)} others here" if len(others) > 1 else f"codec of {others[0]}"] if others else []
        )
        rows.append({"name": name, "about": ", ".join(about)})
    for row in rows:
        drawn_at = sheets.fake.get(row["name"], {})
        row["cells"] = [
            {"k": k, "sheet": drawn_at[k], "text": (_captions(numbers, row["name"], k, sheets) or [""])[0]}
            if k in drawn_at
            else {"k": k, "sheet": None}
            for k in columns
        ]
    return {"columns": columns, "rows": rows}


def _row(numbers: Numbers, name: str, sheets: Sheets, chosen: Sequence[int]) -> dict[str, Any]:
    """A model's row of the gallery, once for each of its token counts."""
    model, lead, variants = numbers.results["models"][name], numbers.lead, []
    for k in (k for k in chosen if k in sheets.fake.get(name, {})):
        entry = model["budgets"][str(k)]
        captions = _captions(numbers, name, k, sheets)
        figures = [f"{shown_bits(entry['bits'])} bits" if entry["bits"] is not None else "continuous"]
        if lead and (value := numbers.value(lead, name, k)) is not None:
            figures.insert(0, f"mean {lead.text(value, unit=True)} {'' if lead.unit else lead.label}".strip())
        variants.append({"k": k, "sheet": sheets.fake[name][k], "captions": captions, "figures": figures})
    return {"name": name, "variants": variants, "least": variants[0]["k"] if variants else None}


def _captions(numbers: Numbers, name: str, k: int, sheets: Sheets) -> list[str]:
    """The leading number of each image of the sheets by itself; nothing where images have none that orders them."""
    lead = numbers.lead
    each = numbers.images(lead, name, k) if lead else []
    digits = {"digits": 1 if lead and lead.unit else 2}
    return [shown(each[i], digits) for i in sheets.numbers if extremes.graded(each)]


def _lanes(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The data of the page's script."""
    kept = ("k", "sheet", "captions")
    return [{"name": row["name"], "lanes": [{key: v[key] for key in kept} for v in row["variants"]]} for row in rows]


def _chart(numbers: Numbers, column: Column) -> dict[str, Any]:
    """A number's charts over tokens and over bits."""
    series = {name: _series(numbers, column, name) for name in numbers.results["models"]}
    marks = {"originals": numbers.original(column), "by chance": column.chance}
    axes = ("tokens", "bits", "coded")
    drawn = [chart for axis in axes if (chart := charts.draw(axis, series, column.measure, marks))]
    told = [f"{n}: " + "; ".join(p["tip"].split("\n")[1] for p in points) for n, points in series.items() if points]
    sure = any(p["interval"] for points in series.values() for p in points)
    return {"column": column, "drawn": drawn, "sure": sure, "summary": f"{column.label}. " + ". ".join(told)}


def _series(numbers: Numbers, column: Column, name: str) -> list[dict[str, Any]]:
    points = []
    cost = next((each for each in numbers.columns if each.measure.get("cost") and each is not column), None)
    for k, entry in numbers.results["models"][name]["budgets"].items():
        value = numbers.value(column, name, int(k))
        if value is None:
            continue
        size = "" if entry["bits"] is None else f", {shown_bits(entry['bits'])} bits"
        sure = numbers.interval(column, name, int(k)) if column.directed else None
        span = "" if sure is None else f"\n95 % interval {column.text(sure.low)} to {column.text(sure.high)}"
        most = (numbers.number(column, name, int(k)) or {}).get("most")
        bound = "" if most is None else f"\nof at most {column.text(most)} over these images"
        tip = f"{name}\n{column.text(value, unit=True)} at {tokens(int(k))}{size}{span}{bound}"
        bits = entry["bits"] if entry["bits"] and math.isfinite(entry["bits"]) else None
        coded = None if cost is None else numbers.value(cost, name, int(k))
        point = {"tokens": int(k), "bits": bits, "coded": coded, "value": value, "tip": tip, "interval": sure}
        points.append({**point, "most": most})
    return points


def _surprise(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """A chart of bits by token, of numbers that say some by position; of each model at its largest count."""
    series: dict[str, list[dict[str, Any]]] = {}
    measure: Mapping[str, Any] = {}
    for name, model in results["models"].items():
        series[name] = []
        numbers = model["budgets"][max(model["budgets"], key=int)]["metrics"] if model["budgets"] else {}
        for number, found in numbers.items():
            for i, bits in enumerate(found.get("by_position", ()), 1):
                measure = results["measures"][number]
                tip = f"{name}\n{bits:.2f} bits of token {i}"
                series[name].append({"tokens": i, "position": i, "value": bits, "tip": tip, "interval": None})
    drawn = charts.draw("position", series, measure) if measure else None
    return None if drawn is None else {"drawn": [drawn], "label": "Surprise by token", "summary": "Bits by token"}


def _books(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Curves of the use of each model's codes at its largest count, from the histograms that numbers bring along."""
    books = []
    for i, (name, model) in enumerate(results["models"].items()):
        for k in [k for k in model["budgets"] if k == max(model["budgets"], key=int)]:
            for number in model["budgets"][k]["metrics"].values():
                if number.get("ranked") and (path := charts.use(number["ranked"])):
                    codes = sum(n for _, n in number["ranked"][0])
                    seen = sum(n * times for times, n in number["ranked"][0])
                    about = f"{tokens(int(k))} an image, {seen:,} tokens over {codes:,} codes"
                    if len(number["ranked"]) > 1:
                        about += f" in each of {len(number['ranked'])} books"
                    ends = {"most": number["ranked"][0][0][0], "codes": codes * len(number["ranked"])}
                    bound = charts.bound(number["ranked"])
                    books.append({"name": name, "model": i, "path": path, "about": about, "bound": bound, **ends})
    return books


def _extremes(numbers: Numbers, sheets: Sheets) -> list[dict[str, Any]]:
    place, shown_at = {n: i for i, n in enumerate(sheets.numbers)}, []
    for ranking in extremes.rank(numbers.results):
        column = next((c for c in numbers.columns if c.name == ranking.measure), None)
        sheet = sheets.fake.get(ranking.model, {}).get(ranking.budget)
        each = numbers.images(column, ranking.model, ranking.budget) if column else []
        if column is None or sheet is None or not each:
            continue
        ends = {
            which: [
                {"place": place[i], "number": i, "text": column.text(each[i], unit=True)} for i in some if i in place
            ]
            for which, some in (("best", ranking.best), ("worst", ranking.worst))
        }
        if any(ends.values()):
            model = list(numbers.results["models"]).index(ranking.model)
            shown_at.append({"model": model, "budget": ranking.budget, "column": column, "sheet": sheet, "ends": ends})
    return shown_at


def _table(numbers: Numbers, chosen: Sequence[int]) -> list[dict[str, Any]]:
    """The rows, grouped by token count."""
    groups: list[dict[str, Any]] = []
    for k in chosen:
        rows: list[dict[str, Any]] = []
        for i, (name, model) in enumerate(numbers.results["models"].items()):
            entry = model["budgets"].get(str(k))
            if entry is None:
                continue
            cells = [_cell(numbers, column, name, k) for column in numbers.columns]
            speed = (model["speed"]["encode_images_per_second"], entry["speed"]["decode_images_per_second"])
            rows.append({"model": i, "bits": shown_bits(entry["bits"]), "cells": cells, "speed": speed})
        for j, column in enumerate(numbers.columns):
            values = [row["cells"][j]["text"] for row in rows if row["cells"][j]["text"] != "–"]
            if column.directed and len(set(values)) > 1:
                pick = max if column.measure["better"] == "higher" else min
                best = pick(values, key=lambda text: float(text.replace(",", "")))
                for row in rows:
                    row["cells"][j]["best"] = row["cells"][j]["text"] == best
        groups.append({"k": k, "rows": rows})
    return groups


def _cell(numbers: Numbers, column: Column, name: str, k: int) -> dict[str, Any]:
    number = numbers.number(column, name, k)
    if number is None:
        lacking = numbers.results["models"][name]["budgets"][str(k)]["metrics"].get(column.name, {})
        why = lacking.get("why") or "measured under another protocol: see the other column"
        return {"text": "–", "span": "", "title": why, "best": False}
    sure = numbers.interval(column, name, k) if column.directed else None
    span = "" if sure is None else f"{column.text(sure.low)} – {column.text(sure.high)}"
    if number.get("most") is not None:
        span = f"of at most {column.text(number['most'])}"
    title = f"protocol {number.get('protocol')}"
    return {"text": column.text(number["value"]), "span": span, "title": title, "best": False}


def _how_sure(numbers: Numbers) -> str:
    """A sentence on how the intervals came about."""
    told, count = [], numbers.results["protocol"]["count"]
    if numbers.by_images():
        told.append(
            f"Means over images: percentile bootstrap over the {count:,} images, {intervals.DRAWS:,} draws, "
            "the same draws for all models, so that comparisons are paired."
        )
    if numbers.by_subsets():
        told.append(
            "Distances between sets of images: from their spread over disjoint subsets of the images, the same for "
            "all models (Student's t)."
        )
    if told:
        told.append("They say how the choice of images moves a number; not how training anew would.")
    return " ".join(told)
