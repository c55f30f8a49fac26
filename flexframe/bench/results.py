"""The content of results.json, schema 2.

schema            2
suite             the suite's name, version (of one that ships; 1 where it is not said) and config
measures          by number: label, better ("higher", "lower", null), unit, digits, note; where there is one: `repeats`,
                  the name of one whose numbers these may be once more, `chance`, what guessing comes to, `by`, who
                  measured, and `who`, what that is and where it comes from
budgets           all token counts that any model was measured at
protocol          what all numbers have in common, for a page to show
models.NAME
  id, config, fingerprint (sha256 of its tensors), trained (what its file says: step, run.ema, ...), parameters,
  length, bits_per_token, sampling, speed.encode_images_per_second; codec_is: the model here whose weights its codec
  has, where there is one
  budgets.K       K: tokens, as text
    bits          of an image at K tokens; null if continuous
    metrics.NUMBER
      value       a finite number, or null
      why         why there is none, and what to do; with null only
      protocol    key into `protocols`; with a number only
      subsets     {"size", "values"}: the number over disjoint parts of the images, the same parts for all models;
                  where it is no mean of per-image values and such parts can be had (Fréchet distances, KID,
                  inception score). Values over few images are biased: their spread counts, and their differences
      original    the number of the originals themselves, where the metric knows it: the same for all models
      most        the highest that the number could be over so many images, where they bound it
      ranked      of `usage`: for each codebook [[times, codes], ...]: so many codes were seen so many times each,
                  most frequent first, codes never seen last: the histogram of use, however large the codebook
    speed         decode_images_per_second
protocols         by key `<measure id>.<use id>`: {"measure", "use"}. Numbers whose measure ids are equal were
                  measured alike and may share a column; the use id says how the model was used
per_image.NAME.K.NUMBER   a value for each image, in order, of metrics that have them
shown             ids of the first images, whose pictures are in `Report.images`
codes_sha256.NAME.K       hash of all token ids
manifest          when, where, by which command; moves no number. Where models were added, `models` are those of that
                  command, and `earlier` the manifests of the others
checksum          of all of it, as `flexframe_registry.files.checksum` has it

Of samples (`flexframe.bench.samples`; `task` in `protocol` says so) models are priors: `fingerprint` is of the prior's
tensors, `tokenizer` has id, config, fingerprint and training of what decodes, `sampling` and `use.sampling` the
settings of `prior` and `decoder`, `speed` has draw_sequences_per_second in the place of encoding. `shown` are images of
the suite, which samples have nothing to do with.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator

from flexframe import provenance
from flexframe.bench import protocol
from flexframe.bench.lanes import Entrant, Lane
from flexframe.bench.metric import Measure
from flexframe.data.images import suffixes
from flexframe.data.source import Source
from flexframe.files import write_text
from flexframe_registry import ConfigError, SuiteConfig
from flexframe_registry.files import CHECKSUM, checksum, read_json
from flexframe_registry.suites import version

FILE = "results.json"
REMEDY = "is no results.json of this version; choose another folder by -o, or delete it"


class _Form(BaseModel, extra="allow", strict=True, allow_inf_nan=False):
    """What must stand in a file for its numbers to be compared; all else may be missing or new."""


class _Number(_Form):
    value: float | None
    why: str = ""
    protocol: str = ""

    @model_validator(mode="after")
    def _told(self) -> _Number:
        if self.value is None and "why" not in self.model_fields_set:
            raise ValueError("says neither a value nor why there is none")
        return self


class _Budget(_Form):
    metrics: dict[str, _Number]


class _Model(_Form):
    budgets: dict[str, _Budget]


class _Protocol(_Form):
    measure: dict[str, Any]
    use: dict[str, Any] = {}


class _Results(_Form):
    measures: dict[str, dict[str, Any]]
    models: dict[str, _Model] = Field(min_length=1)
    protocol: dict[str, Any]
    protocols: dict[str, _Protocol]


def read(file: Path) -> dict[str, Any]:
    """The content of a results.json, of which people may have changed something that takes nothing from its form.

    Raises:
        ConfigError: it is not there, cannot be read, or lacks the form; the first place where it does.
    """
    if not file.is_file():
        raise ConfigError.at(str(file), "is not there; name a results.json that `flexframe bench` wrote")
    results = read_json(file, "it is no JSON, or not of the form that `flexframe bench` writes", edit=True)
    try:
        _Results.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        text = f"is not of the form that `flexframe bench` writes: {where}: {first['msg']}"
        raise ConfigError.at(str(file), text) from None
    return results


@dataclass(frozen=True)
class Seen:
    """Facts of the images that a pass over them tells."""

    sha256: str
    labels: Counter[int | None]
    suffixes: Counter[str]
    """Counts of the suffixes of their ids, which are file names where there are files."""
    ids: Sequence[str]
    """Ids of the first images."""


def assemble(
    name: str,
    suite: SuiteConfig,
    source: Source,
    entrants: Sequence[Entrant],
    measures: Mapping[str, Measure],
    seen: Seen,
    device: torch.device,
    task: Mapping[str, str],
) -> dict[str, Any]:
    """The content of results.json.

    Args:
        task: what was done with the images; part of every number's protocol.
    """
    common = {
        **facts(suite, source, task),
        "data_sha256": seen.sha256,
        "classes": classes(seen.labels),
        "files": {suffix: n for suffix, n in sorted(seen.suffixes.items()) if suffix in suffixes()},
    }
    protocols: dict[str, Any] = {}
    models = {entrant.name: _model(entrant, suite, common, protocols, device) for entrant in entrants}
    return {
        "schema": protocol.SCHEMA,
        "suite": named(name, suite),
        "measures": {
            m.name: {
                "label": m.label,
                "better": m.better,
                "unit": m.unit,
                "digits": m.digits,
                "note": m.note,
                **({"repeats": m.repeats} if m.repeats else {}),
                **({} if m.chance is None else {"chance": m.chance}),
                **({"by": m.by} if m.by else {}),
                **({"who": m.who} if m.who else {}),
                **({"cost": True} if m.cost else {}),
            }
            for m in measures.values()
        },
        "budgets": sorted({lane.budget for entrant in entrants for lane in entrant.lanes}),
        "protocol": common,
        "models": models,
        "protocols": protocols,
        "per_image": {
            e.name: {str(lane.budget): {n: list(v) for n, v in lane.per_image.items()} for lane in e.lanes}
            for e in entrants
        },
        "shown": list(seen.ids),
        "codes_sha256": {e.name: {str(lane.budget): lane.codes.link for lane in e.lanes} for e in entrants},
        "manifest": provenance.manifest(device),
    }


def facts(suite: SuiteConfig, source: Source, task: Mapping[str, str]) -> dict[str, Any]:
    """Facts that all numbers have in common, as far as it is known before the images are read."""
    return {
        **task,
        "data": protocol.settings(suite.data),
        "count": len(source),
        "image_size": list(source.size),
        "images": dict(source.protocol()),
        "uint8": protocol.UINT8_RULES[suite.rounding],
        "providers": protocol.providers([suite.data, *suite.metrics]),
        "versions": protocol.versions(),
    }


def named(name: str, suite: SuiteConfig) -> dict[str, Any]:
    """A suite by its name, as resolved; of one that ships with its version."""
    bare, _, number = version(name).partition("@")
    return {"name": bare, **({"version": int(number)} if number else {}), **suite.model_dump(mode="json")}


def write(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, lists of numbers in one line each."""
    text = json.dumps({**results, CHECKSUM: checksum(results)}, indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\[\n\s+((?:-?[\d.e+-]+,?\s+)+)\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
    write_text(path, text + "\n")


def classes(labels: Counter[int | None]) -> dict[str, int] | None:
    """The numbers of images that classes have: a sample that is balanced is another one than a sample that is not."""
    counts = [n for label, n in labels.items() if label is not None]
    if not counts:
        return None
    return {"labelled": sum(counts), "classes": len(counts), "least": min(counts), "most": max(counts)}


def _model(
    entrant: Entrant,
    suite: SuiteConfig,
    common: Mapping[str, Any],
    protocols: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    bits, used = entrant.bits, entrant.used(suite, device)
    budgets = {}
    for lane in entrant.lanes:
        budgets[str(lane.budget)] = {
            "bits": None if bits is None else lane.budget * bits,
            "metrics": numbers(lane, common, {**used, "budget": lane.budget}, protocols),
            "speed": {"decode_images_per_second": round(lane.watch.rate(), 2)},
        }
    return {**entrant.entry(suite, device), "budgets": budgets}


def numbers(
    lane: Lane, common: Mapping[str, Any], use: Mapping[str, Any], protocols: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Each number with the id of its protocol: `<what is measured, and how>.<how the model is used>`."""
    entries: dict[str, dict[str, Any]] = {}
    for tally, refused in lane.tallies:
        why = refused or tally.unavailable()
        if why is not None:
            entries |= {m.name: {"value": None, "why": why} for m in tally.metric.measures()}
            continue
        values = tally.compute()
        measure = {**common, "metric": protocol.settings(tally.metric.config), "measured": dict(tally.protocol())}
        key = f"{protocol.short_id(measure)}.{protocol.short_id(use)}"
        protocols[key] = {"measure": measure, "use": dict(use)}
        details = tally.details()
        for name, value in values.items():
            if math.isfinite(value):
                entries[name] = {"value": value, "protocol": key, **details.get(name, {})}
            else:
                came = f"came out as {value}, which is no number to report"
                entries[name] = {"value": None, "why": details.get(name, {}).get("why", came)}
    return entries
