"""Cards, runs and suites as files: YAML 1.2, a `base` to build on, `key.path=value` on top.

A card is one file `<family>/<variant>.yaml` that says what a model is, how it was trained and where its weights are.
Files are data: nothing in them is imported, instantiated by name or run.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from . import lost
from .cardfile import CardFile
from .catalogue import Broken
from .errors import ConfigError, UnknownName, nearest
from .files import merge, plain, put, read_json, read_top, read_yaml, split_override
from .manager import Manager, manager
from .models import (
    MODELS,
    ModelConfig,
    ModelKind,
    TokenizerConfig,
    kind_by_keys,
    read_model,
)
from .moved import moved
from .runfolder import MODEL, RunFolder
from .runs import RunConfig, TrainConfig, with_usual_optimizer
from .spellings import present

MAX_HEADER = 100_000_000
"""Bytes of a safetensors file's header, as its format bounds it."""

FEW = 12
"""Cards that an error lists one by one."""


@dataclass(frozen=True, slots=True)
class Card:
    """A named preset or published model."""

    id: str
    file: CardFile
    folder: Path
    base: Card | None = None

    @property
    def model(self) -> TokenizerConfig:
        """The tokenizer that the card describes; `described` takes the other kinds of model too."""
        return TokenizerConfig.of(self.described, self.id)

    @property
    def described(self) -> ModelConfig:
        """The model's config, whichever kind it is."""
        with lost.named(self.folder):
            return read_model(self.file.kind, with_codes(self.file.kind, self.file.model, self.id), self.id)

    @property
    def run(self) -> RunConfig:
        """The run that trains it, as `train` gives it."""
        return self.train().run

    def train(self, overrides: Sequence[str] = ()) -> TrainConfig:
        """The card's model and run, with `key.path=value` on top: `run.*` goes to the run, the rest to the model.

        A tokenizer's training images are brought to size as the card says, where the run does not say otherwise.

        Raises:
            ConfigError: the card does not say how to train it, or what is wrong with the outcome.
        """
        raw: dict[str, Any] = {"kind": self.file.kind, "model": self.file.model, "run": self.file.run or {}}
        if self.file.run is None and not any(o.startswith("run.") for o in overrides):
            text = "has no `run`, so it does not say how to train it; give at least run.data=SOURCE"
            raise ConfigError.at(self.id, text)
        raw["run"] = with_usual_optimizer(raw["run"])  # whose settings are not those of another one
        for override in overrides:
            key, value = split_override(override)
            path = key.split(".")
            raw = put(raw, path if path[0] in ("run", "model") else ["model", *path], value)
            raw = {**raw, "run": present(raw["run"])}  # one by one, so that the last word counts, however spelled
        try:
            with lost.named(self.folder):
                config = read_training(raw)
            if config.model.widths is None:
                return config  # a prior's images are brought to size as its tokenizer's card says
            data = config.run.data.resized(self.file.preprocessing.resize)
            return config.model_copy(update={"run": config.run.model_copy(update={"data": data})})
        except ConfigError as error:
            # the command line says `quantizer`, not `model.quantizer`: answer in the same words
            raise ConfigError([(path.removeprefix("model."), text) for path, text in error.problems]) from None

    def use(self, config: TrainConfig) -> Mapping[str, Any]:
        """The card's settings of use for a model that was trained by this config; none where it has another decoder or
        prior than the card's.

        Raises:
            ConfigError: it has no such setting.
        """
        own, cards_own = config.model.sampled, self.described.sampled
        if own is None or cards_own is None or own.type != cards_own.type:
            return {}
        config.model.check_sampling(self.file.sampling, f"{self.id}.sampling")
        return self.file.sampling

    def weighted(self) -> Card:
        """The card that has the weights: its base where this one only says how to use them, else this one itself.

        Raises:
            ConfigError: the base has weights, and this card changes its model or how it is trained.
        """
        owner = None if self.base is None else self.base.weighted()
        if self.file.weights is not None or owner is None or owner.file.weights is None:
            return self
        changed = "model" if self.described != owner.described else "run" if self.file.run != owner.file.run else ""
        if changed:
            told = (
                f"a card file without weights, and its `{changed}` is another than that of {owner.id}, which has some"
            )
            text = f"is {told}; train it with `flexframe train {self.id}`, or change its `sampling` only"
            raise ConfigError.at(self.id, text)
        return owner

    def weights_path(self) -> Path:
        """The weights file, checked.

        Raises:
            ConfigError: the card has none, or the file is missing or not the one described.
        """
        owner = self.weighted()
        if owner is not self:
            return owner.weights_path()
        weights = self.file.weights
        if weights is None or weights.path is None or weights.sha256 is None:
            raise ConfigError.at(self.id, f"ships no weights; train them with `flexframe train {self.id}`")
        path = self.folder / weights.path
        if not path.is_file():
            raise ConfigError.at(self.id, f"its weights {path} are missing; reinstall the card's plugin")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 != weights.sha256:
            expected = f"the card says {weights.sha256[:12]}"
            raise ConfigError.at(self.id, f"{path} hashes to {sha256[:12]}, {expected}; fetch it again")
        return path


@dataclass(frozen=True)
class Cards:
    """Every card in a set of folders, read on demand."""

    files: Mapping[str, Path]
    broken: Sequence[Broken] = field(default=())

    def names(self) -> list[str]:
        """The ids of all cards, sorted."""
        return sorted(self.files)

    def get(self, name: str, above: tuple[str, ...] = ()) -> Card:
        """The card of this id, on which the cards `above` build.

        Raises:
            UnknownName: there is none; the nearest right id is named.
            ConfigError: the card cannot be read.
        """
        if name not in self.files:
            known = self._near(name)
            lost = "".join(f" (plugin {b.plugin!r} could not be read: {b.error})" for b in self.broken)
            raise UnknownName(f"no card named {name!r}.{nearest(name, self.files)} Known: {known}{lost}")
        return self.read(self.files[name], name, above)

    def _near(self, name: str) -> str:
        """The cards that an error about a name lists: all where they are few, else those of its family, or families."""
        names = self.names()
        families = sorted({each.partition("/")[0] for each in names})
        family = name.partition("/")[0]
        if len(names) <= FEW:
            return ", ".join(names) or "none is installed"
        if family in families:
            return ", ".join(each for each in names if each.startswith(f"{family}/"))
        return f"{', '.join(f'{each}/...' for each in families)}; `flexframe list` has all"

    def line(self, name: str, above: tuple[str, ...] = ()) -> tuple[str, bool]:
        """A card's line in a listing: its summary, and True where it has weights of its own. `above` builds on it.

        Raises:
            ConfigError: its first words cannot be read.
        """
        top = read_top(self.files[name], ("base", "summary"), there=("weights",))
        summary, base = top.get("summary"), top.get("base")
        if not isinstance(summary, str):
            near = isinstance(base, str) and base in self.files and base not in (name, *above)
            summary = self.line(str(base), (name, *above))[0] if near else self.get(name).file.summary
        return summary, "weights" in top

    def _base(self, base: str, above: tuple[str, ...]) -> Card:
        file = Path(base)
        if base not in self.files and is_card_file(file):
            return self.read(file, base, above)
        if base not in self.files and file.is_dir():
            return card_of_run(file)
        return self.get(base, above)

    def read(self, path: Path, name: str, above: tuple[str, ...] = ()) -> Card:
        """The card in a file, laid on its base.

        Raises:
            ConfigError: what is wrong with the file, or a base that builds on it in turn.
        """
        raw, below = _parsed(path, path.stat().st_mtime_ns) if path.is_file() else read_yaml(path), None
        if isinstance(raw.get("run"), Mapping):
            raw = {**raw, "run": present(raw["run"])}
        base = raw.get("base")
        if base is not None and not isinstance(base, str):
            text = f"is a card's id, or a YAML file's path from where the command runs; not {base!r}"
            raise ConfigError.at(f"{path}.base", text)
        if base is not None:
            if base in (name, *above):
                raise ConfigError.at(str(path), f"its base {base!r} is built on it in turn")
            below = self._base(base, (name, *above))
            own = {"base", "parameters", "weights", "metrics", "expected", "expect", "demo"}
            inherited = below.file.model_dump(exclude=own, exclude_unset=True)
            merged = merge(inherited, raw)
            if _sampled(merged) != _sampled(inherited):  # another decoder or prior takes other settings
                merged = {**merged, "sampling": raw.get("sampling", {})}
            raw = merged
        if "kind" not in raw:
            raw = {**raw, "kind": _kind_of_before(raw.get("model"), path)}
        return Card(name, CardFile.read(raw, str(path)), path.parent, below)


@lru_cache(maxsize=256)
def _parsed(path: Path, written: int) -> dict[str, Any]:
    """A card's file as plain data, read once as long as it was `written` at that time; others are built on it."""
    return read_yaml(path)


def _sampled(card: Mapping[str, Any]) -> Any:
    """The name of the part that a card's `sampling` is of."""
    model = card.get("model")
    part = (model.get("prior") or model.get("decoder")) if isinstance(model, Mapping) else None
    return part.get("type") if isinstance(part, Mapping) else part


def _kind_of_before(model: Any, path: Path) -> ModelKind:
    """The kind of a card that does not write it; one that is no tokenizer is told to."""
    kind = kind_by_keys(model)
    if kind != TokenizerConfig.kind:
        text = f"the card {path} describes a {kind} and does not say so; write `kind: {kind}` in it"
        warnings.warn(text, FutureWarning, stacklevel=3)
    return kind


def find_cards(plugins: Manager) -> Cards:
    """All cards of the plugins of a manager.

    Raises:
        ValueError: two cards of one id; both files are named.
    """
    files: dict[str, Path] = {}
    for folder in plugins.card_folders():
        for path in sorted(folder.glob("*/*.yaml")):
            name = f"{path.parent.name}/{path.stem}"
            if name in files:
                raise ValueError(f"card {name!r} is provided by both {files[name]} and {path}; uninstall one")
            files[name] = path
    return Cards(files, tuple(plugins.broken))


@cache
def cards() -> Cards:
    """The process's cards, over the installed plugins."""
    return find_cards(manager())


def is_card_file(path: Path) -> bool:
    """Tell by the suffix whether a path is that of a card's file."""
    return path.suffix in (".yaml", ".yml") and path.is_file()


def tokenizer_of(name: str) -> TokenizerConfig | None:
    """The config of a tokenizer that is a card or its file, a run's or model's folder, or a model file; else None."""
    prefix, _, rest = name.partition(":")
    bare = rest if prefix in ("card", "path") else name
    if prefix == "card" or (prefix != "path" and bare in cards().files):
        return cards().get(bare).model
    path = Path(bare)
    if is_card_file(path):
        return cards().read(path, str(path)).model
    if path.is_dir():
        run = RunFolder(path).config
        if run.is_file():
            raw = read_json(run, edit=True)
            kind = raw.get("kind") or kind_by_keys(raw.get("model"))
            trained = {"model", "run"} <= raw.keys() and kind == TokenizerConfig.kind
            with lost.named(path):
                return TokenizerConfig.read(raw["model"], str(run)) if trained else None
        path = path / MODEL
    if not path.is_file():
        return None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER:
            return None
        text = file.read(size)
    try:
        own = json.loads(text).get("__metadata__", {}).get("flexframe", "{}")
        header = plain(json.loads(own), str(path))
        ours = header.get("kind") == TokenizerConfig.kind
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError.at(str(path), f"cannot be read ({error})") from None
    return TokenizerConfig.read(header.get("config"), str(path)) if ours else None


def with_codes(kind: str, data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The fields of a model that names a tokenizer with its `length`, `codebook_size` and `codebooks`, or `dim`, where
    they do not say; those of any other kind as they are.

    Raises:
        ConfigError: a tokenizer that is not here.
    """
    wanted, name = {"length", "dim" if data.get("dim") is not None else "codebook_size"}, data.get("tokenizer")
    known = kind not in MODELS or "tokenizer" not in MODELS[kind].model_fields or wanted <= data.keys()
    if known or not isinstance(name, str):
        return dict(data)
    at, tokenizer = f"{path}.tokenizer" if path else "tokenizer", tokenizer_of(name)
    if tokenizer is None:
        missing = " and ".join(sorted(wanted - data.keys()))
        raise ConfigError.at(at, f"{name!r} is no card and not on this disk, so its codes are unknown: give {missing}")
    tokens = tokenizer.spec.tokens
    integers = {"codebook_size": tokens.codebook_size, "codebooks": tokens.codebooks}
    widths, other = (integers, "dim") if tokens.codebook_size is not None else ({"dim": tokens.dim}, "codebook_size")
    # what is given of the other sort of tokens is refused later, with both names
    return {"length": tokens.length, **({} if data.get(other) is not None else widths), **data}


def read_training(data: Mapping[str, Any], path: str = "") -> TrainConfig:
    """A model and its run, of which a prior has the codes of the tokenizer that it names.

    Raises:
        ConfigError: what is wrong with either, or that the codes are not that tokenizer's.
    """
    given = data.get("model")
    if isinstance(given, Mapping):
        kind = data.get("kind") or kind_by_keys(given)
        data = {**data, "kind": kind, "model": with_codes(kind, given, "model")}
    config = TrainConfig.read(data, path)
    name = config.model.codes_of
    tokenizer = None if name is None else tokenizer_of(name)
    if name is not None and tokenizer is not None:
        config.model.check_tokenizer(tokenizer, name)
    return config


def card_of_run(folder: Path) -> Card:
    """The settings of a run that is there as a card, to train anew with others on top.

    Raises:
        ConfigError: it is no run's folder, or what is wrong with its config.
    """
    path = RunFolder(folder).config
    raw = read_json(path, edit=True) if path.is_file() else {}
    if not {"model", "run"} <= raw.keys():
        raise ConfigError.at(str(folder), "is a folder that holds no run; name a run's, a card's file, or a card's id")
    own = {"summary": f"as the run in {folder}", "kind": kind_by_keys(raw["model"])}
    kept = {name: raw[name] for name in ("kind", "model", "run", "sampling") if name in raw}
    return Card(folder.absolute().name, CardFile.read(own | kept, str(path)), folder)


def card(name: str) -> Card:
    """A card by id, by path to a YAML file of the same form, or by the folder of a run that was trained so.

    Raises:
        UnknownName: there is no such card, or no such file.
        ConfigError: the card cannot be read.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and not path.is_file() and name not in cards().files:
        raise UnknownName(f"{name}: there is no such file; give a card's file, or a card's id as `flexframe list` has")
    if name not in cards().files and path.is_dir():
        return card_of_run(path)
    if name in cards().files or not path.is_file():
        return cards().get(name)
    return cards().read(path, path.stem)


def folders(package: str) -> list[Path]:
    """The folder `cards` beside a plugin's `__init__.py`, which is given as `__file__`: for `flexframe_cards`."""
    return [Path(package).parent / "cards"]


__getattr__ = moved(
    __name__,
    {
        "flexframe_registry.cardfile": "Preprocessing Shown Trained Weights",
        "flexframe_registry.suites": "SUITES suite",
        "flexframe_registry.files": "SLOTS",
    },
)
