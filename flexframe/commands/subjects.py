"""A model as `flexframe show` finds it: a card, a card's file, a model file, a run's or a model's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexframe.commands.common import refuse
from flexframe.train.history import log
from flexframe_registry import ConfigError, ModelConfig, cards, lost
from flexframe_registry.cards import Card, is_card_file, read_training
from flexframe_registry.cards import card as find_card
from flexframe_registry.doubts import Problems, obstacles, of_card
from flexframe_registry.errors import MISSING, nearest
from flexframe_registry.files import read_json
from flexframe_registry.kinds import KINDS
from flexframe_registry.models import read_model
from flexframe_registry.runfolder import RunFolder
from flexframe_registry.suites import SUITES

Rows = list[tuple[str, str]]


@dataclass
class Subject:
    """A model as `show` finds it."""

    name: str
    config: ModelConfig
    sampling: dict[str, Any]
    facts: Rows
    resolved: dict[str, Any]
    """Its config in full, as a card has it."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    frozen: Sequence[str] = ()
    doubts: Problems = ()
    """Obstacles to and doubts about the run that trains it."""
    unresolved: bool = False
    """True where these are what keeps its run from being read."""


def refuse_nearly_a_suite(name: str) -> None:
    """Tell the suite that a name without a slash nearly is."""
    near = nearest(name, sorted(path.stem for path in SUITES.glob("*.yaml")), 0.8)
    if near and "/" not in name and not Path(name).exists():
        refuse(name, f"there is no such suite.{near}")


def find(name: str) -> Subject:
    """The model of a card, of a card's file, of a model file, or of a run's or a model's folder on this disk."""
    path = Path(name)
    if name in cards().files or is_card_file(path):
        return _of_card(find_card(name))
    kind = name.partition("/")[0]
    near = nearest(kind, KINDS, 0.8)
    if "/" in name and near and not path.exists():
        refuse(name, f"there is no kind {kind!r}.{near} A model of the hub is named hf:{name}")
    from flexframe.store.places import locate

    place = locate(name)
    if place.card is not None:
        return _of_card(place.card)
    if place.path is None:
        text = f"is not on this disk; fetch it with `flexframe import {place.id} -o FOLDER`, then show the folder"
        refuse(place.id, text)
    return _of_run(place.path) or _of_file(place.id, name)


def _of_card(card: Card) -> Subject:
    file, config = card.file, card.described
    resolved: dict[str, Any] = {"summary": file.summary, "licence": file.licence, "source": file.source}
    resolved |= {"kind": config.kind, "model": config.model_dump(mode="json")}
    frozen: Sequence[str] = ()
    doubted: Problems = ()
    unresolved = False
    if file.run is not None:
        try:
            training = card.train()
            resolved["run"], frozen = training.run.model_dump(mode="json"), training.run.freeze
            doubted = [*obstacles(training), *of_card(card, training)]
        except ConfigError as error:  # a recipe may leave to the command line where the data are
            resolved["run"] = file.run
            doubted = [(path, text) for path, text in error.problems if text != MISSING]
            unresolved = bool(doubted)
    resolved |= {"sampling": file.sampling, "metrics": file.metrics}
    preprocessing = f"shorter edge by {file.preprocessing.resize}, centre crop"
    facts = [("what", file.summary), ("licence", file.licence), ("source", file.source), ("weights", _weights(card))]
    facts += [("verified", file.verified), ("images", preprocessing)]
    return Subject(card.id, config, file.sampling, facts, resolved, file.metrics, frozen, doubted, unresolved)


def _weights(card: Card) -> str:
    try:
        owner = card.weighted()
    except ConfigError:  # another model than its base, to be trained
        owner = card
    weights = owner.file.weights
    if weights is None:
        return "none ship" + (f"; train them with `flexframe train {card.id}`" if card.file.run else "")
    if weights.path is not None:
        return f"ship with {'the card' if owner is card else owner.id}, in {weights.path}"
    return f"on the hub: {weights.hub}, fetched when they are first used"


def _of_run(folder: Path) -> Subject | None:
    """A training run's folder, finished or not; None for any other."""
    paths = RunFolder(folder)
    path = paths.config
    raw = read_json(path, edit=True) if path.is_file() else {}
    if not {"model", "run"} <= raw.keys():
        return None
    sampling = raw.pop("sampling", {})
    with lost.named(folder):
        config = read_training(raw, str(path))
    lines = log(folder)
    done = lines[-1]["step"] if lines else 0
    facts = [("what", f"a training run on {config.run.data.type}, {done:,} of {config.run.steps:,} steps done")]
    finished = paths.model.is_file()
    facts += [("weights", str(paths.model) if finished else "not exported yet: the run is unfinished")]
    made = read_json(paths.manifest, edit=True) if paths.manifest.is_file() else {}
    facts += [("trained", f"from {made.get('date', 'an unknown day')} on, commit {made.get('commit') or 'unknown'}")]
    resolved = {"summary": f"as the run in {folder}", "kind": config.kind, "model": raw["model"], "run": raw["run"]}
    resolved |= {"sampling": sampling}
    return Subject(str(folder), config.model, sampling, facts, resolved, frozen=config.run.freeze)


def _of_file(where: str, name: str) -> Subject:
    """A model file of ours, or a checkpoint of another code base as its importer reads it."""
    from flexframe.models.modelfile import header_of
    from flexframe.store.load import imported
    from flexframe.store.places import fetch, locate

    place = locate(where)
    path = fetch(place)[0]
    header = header_of(path) if path.is_file() else None
    if header is None:
        converted, about = imported(place)
        config, sampling = converted.config, dict(converted.sampling)
    else:
        with lost.named(path):
            config = read_model(header["kind"], header["config"], str(path))
        sampling, about = header["sampling"], header["about"]
    facts = [("weights", f"{path}" if header else f"{path}, of another code base")]
    facts += [
        (name, flat(value)) for name, value in _leaves(about) if name != "run" and value not in (None, [], {}, "")
    ]
    origin = flat({key: value for key, value in about.items() if key != "run"})
    resolved = {"summary": f"as {name}", "source": origin, "kind": config.kind, "model": config.model_dump(mode="json")}
    resolved |= {"run": about["run"]} if isinstance(about.get("run"), dict) else {}
    resolved |= {"sampling": sampling}
    return Subject(name, config, sampling, facts, resolved)


def _leaves(about: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Facts that a header has of its model, an import's words one by one; a run's config is not looked into."""
    for key, value in about.items():
        if isinstance(value, Mapping) and key != "run":
            yield from value.items()
        else:
            yield key, value


def flat(value: Any) -> str:
    """Plain data in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {flat(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        sentences = any(isinstance(each, str) for each in value)
        return ("; " if sentences else " ").join(flat(each) for each in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
