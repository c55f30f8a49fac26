"""Model files, and `flexframe.load`: cards, paths and the hub, our own format and published ones.

A model of ours is one safetensors file whose metadata holds its config as JSON: nothing to unpickle, nothing to lose.
A checkpoint of another code base is translated by an importer (`flexframe.importing`) as it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from flexframe import hub
from flexframe.generator import CodecModel, Generator
from flexframe.importing import Foreign, Imported, importer_of, open_foreign
from flexframe.importing.foreign import PICKLES
from flexframe.tokenizer import Tokenizer
from flexframe_registry import (
    Card,
    CodecModelConfig,
    ConfigError,
    GeneratorConfig,
    ModelConfig,
    TokenizerConfig,
    UnknownName,
    cards,
)
from flexframe_registry.cards import Preprocessing, is_card_file
from flexframe_registry.files import put, split_override
from flexframe_registry.errors import nearest
from flexframe_registry.models import MODELS, kind_of, sampled_by

FORMAT = "flexframe/1"
MAX_CONFIG = 1 << 20
Model = Tokenizer | Generator | CodecModel
Kind = Literal["tokenizer", "generator", "codec"]
log = logging.getLogger("flexframe")


# --- our own files -----------------------------------------------------------------------------------------------


def save(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    path: Path,
    *,
    sampling: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file atomically. `about` is kept beside the config (step, run, provenance)."""
    header = {
        "kind": kind_of(config),
        "config": config.model_dump(mode="json"),
        "sampling": dict(sampling or {}),
        "about": dict(about or {}),
    }
    whole = {name: value.detach().contiguous().clone() for name, value in state.items()}
    temporary = path.with_name(f".{path.name}.part")
    save_file(whole, temporary, metadata={"format": FORMAT, "flexframe": json.dumps(header, sort_keys=True)})
    os.replace(temporary, path)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a model file; `ConfigError` says what is wrong with a broken or foreign one."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            [(str(path), f"is not a whole safetensors file ({error}); fetch or train it again")]
        ) from None
    return _header(metadata, path), state


def header_of(path: Path) -> dict[str, Any] | None:
    """A model file's header alone; None where the file is whole but not of our format."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return _header(metadata, path) if metadata.get("format") == FORMAT else None


def _header(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    if metadata.get("format") != FORMAT:
        raise ConfigError([(str(path), f"is no flexframe model: its metadata names no format {FORMAT!r}")])
    text = metadata.get("flexframe", "")
    if len(text) > MAX_CONFIG:
        raise ConfigError([(str(path), f"its config has {len(text)} characters; at most {MAX_CONFIG} are read")])
    try:
        header = json.loads(text)
        whole = {name: header[name] for name in ("config", "sampling", "about")}
        return {"kind": header.get("kind", "tokenizer"), **whole}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"its metadata holds no whole config ({error}); fetch or train it again"
        raise ConfigError([(str(path), text)]) from None


# --- names -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """What a name stands for: a card, a path, or a repository of the hub. Nothing is fetched to find out."""

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
        raise ConfigError([(text, f"is no file or folder, and no card.{advice}")])
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w.-]+)?", text) and text.split("/")[0] not in families:
        if near and not named:  # a slip of the pen is not sent to anybody
            raise ConfigError([(text, f"is no card, file or folder.{near} A repository of the hub: hf:{text}")])
        log.warning("%s is no card and no path: it is looked for on huggingface.co (hf:%s says so itself)", text, text)
        return _hub(text)
    try:
        cards().get(text)
    except LookupError as error:
        raise ConfigError([("", f"{error}; and there is no such file or folder")]) from None
    raise AssertionError(text)


def find(where: str | Path) -> Path:
    """The file or folder of a model; a card's weights or the hub's are fetched where they are not on this disk."""
    return fetch(locate(where))[0]


def fetch(place: Place) -> tuple[Path, str | None]:
    """A place's file or folder on this disk, and its commit if it is from the hub."""
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
        found = _sha256(path)
        if found != weights.sha256:
            text = f"{path} hashes to {found[:12]}, the card says {weights.sha256[:12]}; delete it and fetch it again"
            raise ConfigError([(card.id, text)])
    return _model_in(path), commit


def preprocessing(where: str | Path) -> Preprocessing:
    """How image files are made a model's input: as its card says, or its file; else the usual way."""
    place = locate(where)
    if place.card is not None:
        return place.card.file.preprocessing
    path, _ = fetch(place)
    header = header_of(path) if path.is_file() else None
    said = header["about"].get("preprocessing", {}) if header else {}
    return Preprocessing.read(said, f"{path}: preprocessing")


def _path(path: Path) -> Place:
    if not path.exists():
        raise ConfigError([(str(path), "is no file or folder; give a card's id as a string, not as a path")])
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
    checkpoints = sorted((path / "checkpoints").glob("step-*/ema.safetensors"))
    own = [path / "model.safetensors", path / "ema.safetensors", *reversed(checkpoints)]
    found = next((c for c in own if c.is_file()), None)
    if found is not None:
        return found if found.name != "model.safetensors" or header_of(found) is not None else path
    if any(p.suffix in (".safetensors", *PICKLES) for p in path.iterdir()):
        return path
    raise ConfigError([(str(path), "holds no model.safetensors and no whole checkpoint")])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- loading -----------------------------------------------------------------------------------------------------


@overload
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    kind: Literal["tokenizer"] = "tokenizer",
) -> Tokenizer: ...
@overload
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    kind: Literal["generator"],
) -> Generator: ...
@overload
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    kind: Literal["codec"],
) -> CodecModel: ...
@overload
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    kind: None,
) -> Model: ...
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    kind: Kind | None = "tokenizer",
) -> Model:
    """A trained model, ready for use.

    Args:
        where: a card's id (`flextok/digits-tiny`), else a file or folder (a card's YAML file, a model of ours, a
            training run, a published checkpoint), else a repository of the hub
            (`EPFL-VILAB/flextok_d12_d12_in1k`). `card:`, `path:` and `hf:` before a name say which is meant.
        device: where to put it.
        overrides: `key.path=value` over the model's config, `sampling.key=value` over its settings of use.
        assume: settings that a published checkpoint's config lacks, by dotted path.
        drop: dotted paths of a published checkpoint's settings and tensors to go without.
        kind: what it must be; None takes anything.

    Raises:
        ConfigError: an unknown name, a file that is broken or of another format, tensors that do not fit.
    """
    place = locate(where)
    found, about = imported(place, assume=assume, drop=drop)
    if kind is not None and kind_of(found.config) != kind:
        held = kind_of(found.config)
        raise ConfigError([(str(where), f"holds a {held}, not a {kind}; load it with kind={held!r}")])
    for note in found.notes:
        log.warning("%s: %s", place.id, note)
    sampling = dict(found.sampling)
    if place.card is not None:
        sampling |= place.card.file.sampling
    config = found.config
    if overrides:
        config, sampling = override(config, sampling, overrides)
    part = sampled_by(config)
    if place.card is not None and part is not None:
        part.sampling.read(sampling, f"{place.card.id}: sampling")  # what is wrong is told with the card's name
    model = assemble(config, found.state, place.id, sampling, found.names)
    model.id = place.id.removeprefix("card:")
    if isinstance(model, Tokenizer):
        model.about = about
    return model.eval().to(device)


def load_file(path: Path, *, device: str | torch.device = "cpu") -> Tokenizer:
    """A tokenizer from a file, in evaluation mode."""
    return load(path, device=device)


def imported(
    place: Place, *, assume: Mapping[str, Any] | None = None, drop: Sequence[str] = (), importer: str | None = None
) -> tuple[Imported, dict[str, Any]]:
    """Config and state of a place, whatever its format, and what is known about them."""
    path, commit = fetch(place)
    if path.is_file() and header_of(path) is not None:
        if assume or drop:
            raise ConfigError([(str(path), "is a model of our own format: it has nothing to assume or to drop")])
        header, state = read(path)
        if header["kind"] not in MODELS:
            raise ConfigError([(str(path), f"holds a {header['kind']!r}; this version knows: {', '.join(MODELS)}")])
        config = MODELS[header["kind"]].read(header["config"], str(path))
        return Imported(config, state, header["sampling"]), header["about"]
    described = None if place.card is None else place.card.described
    source = open_foreign(path, assume=assume, drop=drop, origin=place.id, revision=commit, card_model=described)
    found = importer_of(source, importer).convert(source)
    return found, about_import(source, found)


def about_import(source: Foreign, found: Imported) -> dict[str, Any]:
    """What is recorded of an import: where it is from, what was assumed and dropped, what a user must know."""
    about = {
        "source": source.origin,
        "revision": source.revision,
        "assumed": dict(source.assumed),
        "dropped": list(source.dropped),
        "notes": list(found.notes),
    }
    return {"import": about}


def override(
    config: ModelConfig, sampling: Mapping[str, Any], overrides: Sequence[str]
) -> tuple[ModelConfig, dict[str, Any]]:
    """A model's config and settings of use with `key.path=value` laid on."""
    raw: dict[str, Any] = {"model": config.model_dump(mode="json"), "sampling": dict(sampling)}
    for text in overrides:
        key, value = split_override(text)
        path = key.split(".")
        raw = put(raw, path if path[0] == "sampling" else ["model", *path], value)
    return type(config).read(raw["model"]), raw["sampling"]


def assemble(
    config: ModelConfig,
    state: Mapping[str, Tensor],
    where: str,
    sampling: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
) -> Model:
    """A model of this config with these tensors. Tensors left over, missing or misshapen are all listed.

    Args:
        names: the tensors' names in the file that they are from, where those are others.
    """
    with undrawn():
        model = build(config, sampling)
    own, theirs = model.state_dict(), names or {}

    def told(name: str) -> str:
        return f"{name} (there {theirs[name]})" if theirs.get(name, name) != name else name

    problems = [f"missing {told(name)}" for name in own.keys() - state.keys()]
    problems += [f"left over {told(name)}" for name in state.keys() - own.keys()]
    problems += [
        f"{told(name)} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    if problems:
        raise ConfigError([(where, "its tensors do not fit its config: " + "; ".join(sorted(problems)))])
    model.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()}, assign=True)
    return model.eval()


def build(config: ModelConfig, sampling: Mapping[str, Any] | None = None) -> Model:
    """A model of this config with random weights."""
    if isinstance(config, GeneratorConfig):
        return Generator(config, sampling)
    if isinstance(config, CodecModelConfig):
        return CodecModel(config, sampling)
    assert isinstance(config, TokenizerConfig)
    return Tokenizer(config, sampling)


class _Undrawn(TorchFunctionMode):
    """Leaves the in-place draws of initializers out: what they would fill is about to be replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.erfinv_):
            return args[0]
        if func is Tensor.normal_:
            return args[0].zero_()  # truncated draws repeat until they lie within bounds: leave nothing to chance
        return func(*args, **(kwargs or {}))


@contextmanager
def undrawn() -> Iterator[None]:
    """Build a model without drawing its weights: minutes less for billions of parameters."""
    with _Undrawn():
        yield
