"""A benchmark's folder that grows: models that stand in its results.json stay, and only what is new is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from flexframe.bench.lanes import Entrant
from flexframe.bench.protocol import Digest
from flexframe.bench.results import REMEDY
from flexframe.data.source import Source
from flexframe.files import differences, refuse_other
from flexframe_registry import ConfigError, SuiteConfig
from flexframe_registry.files import read_json

BATCH = 256
ADVICE = "choose another folder by -o, or delete it"
PARTS = ("models", "per_image", "codes_sha256")
"""What results hold by model."""
OF_THE_IMAGES = ("data_sha256", "classes", "files")
"""Facts of a protocol that only reading the images tells."""


def standing(path: Path, suite: SuiteConfig, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """The results at `path`, if there are any: of this same suite, and with models that are these where names are.

    Args:
        models: by name, what `models.NAME` would say; what it leaves out is not compared.

    Raises:
        ConfigError: they are of others, or of no form that is known.
    """
    if not path.is_file():
        return None
    try:
        held = read_json(path, f"it {REMEDY}", edit=True)
        name, date, theirs = held["suite"]["name"], held["manifest"]["date"][:10], held["models"]
        asked = {**suite.model_dump(mode="json", exclude={"note", "show"}), "models": dict(models)}
        own = {name: {key: theirs[name].get(key) for key in each} for name, each in models.items() if name in theirs}
        again = suite.again({key: value for key, value in held["suite"].items() if key in SuiteConfig.model_fields})
        was = {**{key: again.get(key) for key in asked}, "models": own}
        whole = all(isinstance(held[part], dict) for part in (*PARTS, "protocol", "protocols", "measures"))
    except (KeyError, TypeError, AttributeError):
        raise ConfigError.at(str(path), REMEDY) from None
    if not whole:
        raise ConfigError.at(str(path), REMEDY)
    asked["models"] = {name: each for name, each in models.items() if name in theirs}
    told = f"holds another benchmark, of suite {name} with {', '.join(theirs)} ({date})"
    refuse_other(path, told, was, asked, ADVICE)
    return held


def to_measure(
    held: Mapping[str, Any] | None, facts: Mapping[str, Any], entrants: Sequence[Entrant], path: Path
) -> list[Entrant]:
    """The models of which results do not yet say all that can be measured; all, where the protocol has changed since.

    Args:
        facts: of the protocol, as far as they are known before the images are read.

    Raises:
        ConfigError: the protocol has changed, and models stand there that could not be measured anew.
    """
    if held is None:
        return list(entrants)
    was = {key: value for key, value in held["protocol"].items() if key not in OF_THE_IMAGES}
    if differences(was, facts):
        others = sorted(held["models"].keys() - {each.name for each in entrants})
        if others:
            remedy = f"name {', '.join(others)} too, to measure all anew, or {ADVICE}"
            refuse_other(path, "was measured under another protocol", was, facts, remedy)
        return list(entrants)
    return [each for each in entrants if _lacks(each, held["models"].get(each.name))]


def _lacks(entrant: Entrant, entry: Mapping[str, Any] | None) -> bool:
    """True where a model is not there, or a number is not that can be had now."""
    for lane in entrant.lanes:
        numbers = ((entry or {}).get("budgets", {}).get(str(lane.budget)) or {}).get("metrics", {})
        for tally, why in lane.tallies:
            names = [measure.name for measure in tally.metric.measures()]
            if any(name not in numbers for name in names) or (
                why is None and all(numbers[name].get("value") is None for name in names)
            ):
                return True
    return entry is None


def staying(held: Mapping[str, Any], new: Sequence[Entrant]) -> list[str]:
    """Names of the models that results keep as they are."""
    anew = {each.name for each in new}
    return [name for name in held["models"] if name not in anew]


def see_images(held: Mapping[str, Any], source: Source, path: Path) -> None:
    """See that the suite's images are those that the others were measured on, before hours are spent on it.

    Raises:
        ConfigError: they are not.
    """
    digest = Digest()
    for start in range(0, len(source), BATCH):
        some = source.samples(range(start, min(start + BATCH, len(source))))
        digest.add(torch.stack([sample.image for sample in some]))
    if held["protocol"].get("data_sha256") != digest.hex():
        told = "was measured on other images than the suite has now, though they are called the same"
        raise ConfigError.at(str(path), f"{told}; {ADVICE}")


def grown(held: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The results of models that stood there and of those that were measured now: in that order."""
    if held is None or held["models"].keys() <= new["models"].keys():
        return new
    parts = {part: {**held[part], **new[part]} for part in PARTS}
    stay = [name for name in held["models"] if name not in new["models"]]
    protocols = {**held["protocols"], **new["protocols"]}
    said = {n["protocol"] for m in parts["models"].values() for b in m["budgets"].values()
            for n in b["metrics"].values() if "protocol" in n}  # fmt: skip
    before = [*held["manifest"].get("earlier", []), _brief(held["manifest"], stay)]
    return {
        **new,
        **parts,
        "budgets": sorted({*held["budgets"], *new["budgets"]}),
        "protocols": {key: record for key, record in protocols.items() if key in said},
        "manifest": {**new["manifest"], "models": list(new["models"]), "earlier": before},
    }


def _brief(manifest: Mapping[str, Any], models: list[str]) -> dict[str, Any]:
    """When, where and by which command models were measured that stand there still."""
    said = {key: value for key, value in manifest.items() if key not in ("models", "earlier")}
    return {**said, "models": manifest.get("models", models)}
