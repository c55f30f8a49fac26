"""Places that hold models: a card's weights, a file or folder, a repository of the hub."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexframe.files import sha256
from flexframe.importing.foreign import PICKLES
from flexframe.models.modelfile import header_of
from flexframe.store import hub
from flexframe_registry import Card, ConfigError, UnknownName, cards
from flexframe_registry.cardfile import Preprocessing
from flexframe_registry.cards import is_card_file
from flexframe_registry.errors import nearest
from flexframe_registry.files import read_json
from flexframe_registry.runfolder import EMA, MODEL, STATE, RunFolder

log = logging.getLogger("flexframe")


@dataclass(frozen=True)
class Place:
    """The thing that a name stands for: a card, a path, or a repository of the hub. Nothing is fetched to find out."""

    id: str
    """The name in full, with its prefix: what `load` takes again."""
    card: Card | None = None
    path: Path | None = None
    repo: str | None = None
    revision: str | None = None


def locate(where: str | Path) -> Place:
    """The place that a name stands for: a card's id, else a path, else a repository of the hub.

    `card:`, `path:` and `hf:` (`hf:owner/name@revision`) say which is meant. A published model's name on the hub finds
    its card. A bare name that starts with a family of cards, is nearly a card's, or whose first part is a folder here
    never means the hub: nothing that is local is sent there.

    Raises:
        ConfigError: there is nothing of that name.
    """
    text = str(where)
    prefix, _, rest = text.partition(":")
    if isinstance(where, Path):
        return _path(where)
    if prefix == "card":
        return Place(f"card:{rest}", card=cards().get(rest))
    if prefix == "path":
        return _path(Path(rest))
    if prefix == "hf":
        return _hub(rest)
    if text in cards().files:
        return Place(f"card:{text}", card=cards().get(text))
    if Path(text).exists():
        return _path(Path(text))
    repo, _, revision = text.partition("@")
    named = [name for name in cards().names() if _hub_name(name) == repo]
    if named and not revision:
        return Place(f"card:{named[0]}", card=cards().get(named[0]))
    near, families = nearest(text, cards().files, 0.8), {name.split("/")[0] for name in cards().files}
    above = Path(text).expanduser().parent
    if text[:1] in (".", "/", "~") or (above != Path() and above.is_dir()):
        there = [str(path) for path in above.iterdir()] if above.is_dir() else []
        advice = nearest(text, there, 0.7) or near or " `flexframe list` shows the cards"
        raise ConfigError.at(text, f"is no file or folder, and no card.{advice}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", text) and text.split("/")[0] not in families:
        if near and not named:  # a slip of the pen is not sent to anybody
            raise ConfigError.at(text, f"is no card, file or folder.{near} A repository of the hub: hf:{text}")
        log.warning("%s is no card and no path: it is looked for on huggingface.co (hf:%s says so itself)", text, text)
        return _hub(text)
    try:
        cards().get(text)
    except LookupError as error:
        raise ConfigError.at("", f"{error}; and there is no such file or folder") from None
    raise AssertionError(text)


def find(where: str | Path) -> Path:
    """The file or folder of a model; a card's weights or the hub's are fetched where they are not on this disk."""
    return fetch(locate(where))[0]


def fetch(place: Place) -> tuple[Path, str | None]:
    """A place's file or folder on this disk, and its commit if it is from the hub.

    Raises:
        ConfigError: it cannot be fetched, holds no model, or is not what its card says.
    """
    if place.path is not None:
        return _model_in(place.path), None
    if place.repo is not None:
        path, commit = hub.fetch(place.repo, place.revision)
        return _model_in(path), commit
    assert place.card is not None
    card = place.card.weighted()
    weights = card.file.weights
    if weights is None or weights.hub is None:
        return card.weights_path(), None
    path, commit = hub.fetch(weights.hub, weights.revision, weights.file)
    if weights.sha256 is not None and path.is_file():
        digest = sha256(path)
        if digest != weights.sha256:
            text = f"{path} hashes to {digest[:12]}, the card says {weights.sha256[:12]}; delete it and fetch it again"
            raise ConfigError.at(card.id, text)
    return _model_in(path), commit


def holds_model(path: Path) -> bool:
    """Say whether a folder holds a model: a run's, or a file of weights of this or another code base."""
    try:
        _model_in(path)
    except ConfigError:
        return False
    return True


def preprocessing(where: str | Path) -> Preprocessing:
    """The way in which image files are made a model's input: its card's, or its file's; else the usual one."""
    place = locate(where)
    if place.card is not None:
        return place.card.file.preprocessing
    path, _ = fetch(place)
    header = header_of(path) if path.is_file() else None
    said = header["about"].get("preprocessing", {}) if header else {}
    return Preprocessing.read(said, f"{path}: preprocessing")


def trained(where: str | Path) -> dict[str, Any]:
    """The training of a model, as its card says it; empty where there is no card, or it says nothing.

    A card of before `trained` may say under `metrics` how many images were seen.
    """
    card = locate(where).card
    if card is None:
        return {}
    said = card.weighted().file
    if said.trained is not None:
        return said.trained.model_dump(exclude_defaults=True)
    return {"images": said.metrics["images_seen"]} if "images_seen" in said.metrics else {}


def _as_written(average: Path) -> bool:
    """Tell whether a checkpoint's averaged model hashes to what its state says; one without a state may be any."""
    state = average.with_name(STATE)
    try:
        if not state.is_file() or read_json(state)["sha256"][EMA] == sha256(average):
            return True
        why = f"{EMA} is not as it was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = str(error)
    log.warning("checkpoint %s is broken (%s); it is passed over", average.parent, why)
    return False


def _path(path: Path) -> Place:
    if not path.exists():
        raise ConfigError.at(str(path), "is no file or folder; give a card's id as a string, not as a path")
    if is_card_file(path):
        return Place(f"path:{path}", card=cards().read(path, str(path)))
    return Place(f"path:{path}", path=path)


def _hub(text: str) -> Place:
    repo, _, revision = text.partition("@")
    return Place(f"hf:{text}", repo=repo, revision=revision or None)


def _hub_name(name: str) -> str | None:
    try:
        weights = cards().get(name).file.weights
    except (ConfigError, UnknownName):
        return None  # a broken card is told where it is named, and must not hide the others
    return weights.hub if weights is not None and weights.file is None else None


def _model_in(path: Path) -> Path:
    """The model file of a run's or a model's folder; the folder itself where it is another code base's."""
    if not path.is_dir():
        return path
    finished, *averages = RunFolder(path).weights()
    if finished.is_file():
        return finished if header_of(finished) is not None else path
    file = next((each for each in (path / EMA, *averages) if each.is_file() and _as_written(each)), None)
    if file is not None:
        return file
    if any(p.suffix in (".safetensors", *PICKLES) or p.name.endswith(".index.json") for p in path.iterdir()):
        return path
    raise ConfigError.at(str(path), f"holds no {MODEL} and no whole checkpoint")
