"""What the page shows, worked out of a run's results. Nothing here knows a metric or a method by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from flexframe.bench.report import charts
from flexframe.bench.report.sprites import Sprites
from flexframe.bench.table import any_value, best_models, reasons, shown, shown_bits

STOPS = 12
COLUMNS = 7


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


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of them, evenly by rank, both ends kept."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def view(results: Mapping[str, Any], sprites: Sprites) -> dict[str, Any]:
    """The template's variables."""
    names = list(results["models"])
    chosen = stops(results)
    measured = {n: m for n, m in results["measures"].items() if any_value(results, n)}
    return {
        "results": results,
        "names": names,
        "stops": chosen,
        "labelled": chosen if len(chosen) <= 9 else spread(chosen, 9),
        "start": _start(results, chosen),
        "sprites": sprites,
        "pixelated": max(sprites.height, sprites.width) <= 96,
        "shrunk": [sprites.height, sprites.width] != list(results["protocol"]["image_size"]),
        "headline": _headline(results),
        "cards": [_card(results, name, measured) for name in names],
        "build_up": _build_up(results, sprites, chosen),
        "rows": [_row(results, name, sprites, chosen) for name in names] if sprites.count else [],
        "charts": _charts(results, measured),
        "lead": next(iter(measured), None),
        "measured": measured,
        "table": _table(results, measured, chosen),
        "missing": {coded(why): labels for why, labels in reasons(results).items()},
        "parts": ["encoder", "quantizer", "decoder", "codec"],
        "numbers": lambda n: f"{n:,}",
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        "bits": shown_bits,
    }


def coded(text: str) -> Markup:
    """A sentence with its `names` set as code and a capital at its start; all else escaped."""
    parts = [escape(part) for part in (text[:1].upper() + text[1:]).split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _headline(results: Mapping[str, Any]) -> str:
    most, least = max(results["budgets"], default=0), min(results["budgets"], default=0)
    span = f"{least} to {most} tokens" if least != most else _tokens(most)
    return f"What {span} keep of an image"


def _start(results: Mapping[str, Any], chosen: Sequence[int]) -> int:
    """Where the slider stands at first: the smallest count that most models offer, so that they can be compared."""
    offered = [sum(str(k) in m["budgets"] for m in results["models"].values()) for k in chosen]
    return offered.index(max(offered)) if offered else 0


def _tokens(count: int) -> str:
    return f"{count:,} token" + ("" if count == 1 else "s")


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count / 1e3:,.0f} k"


def _card(results: Mapping[str, Any], name: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The model in a glance: its numbers at its largest count."""
    model = results["models"][name]
    card: dict[str, Any] = {"name": name, "parameters": _millions(model["parameters"]["total"]), "figures": []}
    if not model["budgets"]:
        return {**card, "at": "none of the suite's token counts"}
    most = max(model["budgets"], key=int)
    for key, measure in [(k, m) for k, m in measured.items() if m["better"]][:3]:
        value = model["budgets"][most]["metrics"][key]["value"]
        card["figures"].append((shown(value, measure), measure["unit"], measure["label"]))
    offered = [f"{int(k):,}" for k in model["budgets"]]
    some = ", ".join(offered) if len(offered) <= 6 else f"{offered[0]} to {offered[-1]}"
    bits = model["budgets"][most]["bits"]
    size = "continuous" if bits is None else f"{shown_bits(bits)} bits"
    return {**card, "at": f"{_tokens(int(most))}, {size}", "offered": some}


def _build_up(results: Mapping[str, Any], sprites: Sprites, chosen: Sequence[int]) -> dict[str, Any] | None:
    """A few images across the token counts of the model that offers most of them."""
    if not sprites.count or not results["models"]:
        return None
    name = max(sprites.fake, key=lambda n: len(sprites.fake[n]))
    own = [k for k in chosen if k in sprites.fake[name]]
    if len(own) < 2:
        return None
    columns = [(_tokens(k), sprites.fake[name][k]) for k in spread(own, COLUMNS)]
    wanted = min(sprites.count, 3 if len(columns) > 5 else 2)
    return {"name": name, "model": list(results["models"]).index(name), "columns": columns, "images": range(wanted)}


def _row(results: Mapping[str, Any], name: str, sprites: Sprites, chosen: Sequence[int]) -> dict[str, Any]:
    """A model's row of the gallery, once for each position of the slider."""
    model, variants = results["models"][name], []
    for k in chosen:
        found = model["budgets"].get(str(k))
        if found is None or k not in sprites.fake.get(name, {}):
            offered = ", ".join(model["budgets"]) if len(model["budgets"]) <= 6 else "others"
            variants.append({"k": k, "why": f"not offered at {_tokens(k)}", "offered": offered})
            continue
        per_image = results["per_image"][name][str(k)]
        key = next(iter(per_image), None)
        measure = results["measures"].get(key, {})
        captions = [
            shown(v, {"digits": 1 if measure.get("unit") else 2}) for v in per_image.get(key, [])[: sprites.count]
        ]
        figures = [f"{shown_bits(found['bits'])} bits"] if found["bits"] is not None else ["continuous"]
        if key is not None and found["metrics"][key]["value"] is not None:
            figures.insert(0, f"{shown(found['metrics'][key]['value'], measure)} {measure['unit']}".strip())
        variants.append({"k": k, "sprite": sprites.fake[name][k], "captions": captions, "figures": figures})
    return {"name": name, "variants": variants}


def _charts(results: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A chart over tokens and one over bits for each measure that has a better and a worse."""
    found = []
    for key, measure in measured.items():
        if measure["better"] is None:
            continue
        series = {name: _series(name, model, key, measure) for name, model in results["models"].items()}
        drawn = [chart for axis in ("tokens", "bits") if (chart := charts.draw(axis, series, measure))]
        found.append({"measure": measure, "key": key, "drawn": drawn, "summary": _summary(series, measure)})
    return found


def _series(name: str, model: Mapping[str, Any], key: str, measure: Mapping[str, Any]) -> list[dict[str, Any]]:
    points = []
    for k, found in model["budgets"].items():
        value = found["metrics"].get(key, {}).get("value")
        if value is None:
            continue
        size = "" if found["bits"] is None else f", {shown_bits(found['bits'])} bits"
        text = f"{shown(value, measure)} {measure['unit']}".strip()
        tip = f"{name}\n{text} at {_tokens(int(k))}{size}"
        bits = found["bits"] if found["bits"] and math.isfinite(found["bits"]) else None
        points.append({"tokens": int(k), "bits": bits, "value": value, "tip": tip})
    return points


def _summary(series: Mapping[str, Sequence[Mapping[str, Any]]], measure: Mapping[str, Any]) -> str:
    told = [f"{n}: " + "; ".join(p["tip"].split("\n")[1] for p in points) for n, points in series.items() if points]
    return f"{measure['label']}. " + ". ".join(told)


def _table(results: Mapping[str, Any], measured: Mapping[str, Any], chosen: Sequence[int]) -> list[dict[str, Any]]:
    """The rows, grouped by token count."""
    groups = []
    for k in chosen:
        best = {key: best_models(results, key, k) for key in measured}
        rows = []
        for name, model in results["models"].items():
            found = model["budgets"].get(str(k))
            if found is None:
                rows.append({"name": name, "cells": None})
                continue
            numbers = [(key, found["metrics"].get(key, {})) for key in measured]
            cells = [
                {
                    "text": shown(n.get("value"), measured[key]),
                    "best": name in best[key],
                    "title": n.get("why") or f"protocol {n.get('protocol')}",
                }
                for key, n in numbers
            ]
            speed = (model["speed"]["encode_images_per_second"], found["speed"]["decode_images_per_second"])
            rows.append({"name": name, "bits": shown_bits(found["bits"]), "cells": cells, "speed": speed})
        groups.append({"k": k, "rows": rows})
    return groups
