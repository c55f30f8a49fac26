"""A checkpoint of somebody else: its tensors and its settings, opened without running anything in it."""

from __future__ import annotations

import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flexframe.files import refuse_pointer
from flexframe.importing.names import AVERAGE, average_of, below, by_first, flat, renamed, unwrapped
from flexframe.importing.plain import MAX_CONFIG, parse, plain, read_config
from flexframe.importing.settings import Settings
from flexframe_registry import ConfigError, ModelConfig

CONFIGS = ("config.json", "config.yaml", "config.yml")
WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
)
"""Usual names; `NAME.index.json` lists the files of a checkpoint in several."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
SCRIPTS = (Namespace,)
"""What training scripts put beside tensors, and holds nothing but values: it runs nothing when it is made or filled."""


class TensorFile(Mapping[str, Tensor]):
    """Tensors of one checkpoint, over one file or several, read when they are asked for.

    Safetensors, or a PyTorch file that holds tensors by name: it is read with `weights_only`, so a pickle that would
    run code is refused before it does. Names go without the wrappers of torch (`module.`, `_orig_mod.`).

    Args:
        hidden: names, and beginnings of names up to a point, of tensors to go without.
        entry: the mapping, or the beginning of names, that holds the tensors; if empty the only mapping, or the running
            average (`model_ema`) where it and what it averages (`model`) are the only two.
        rename: what is put in the place of the beginnings of names.
    """

    taken: str = ""
    """The mapping, or the beginning of names, that was taken without being asked for."""

    def __init__(
        self,
        paths: Sequence[Path],
        hidden: Iterable[str] = (),
        *,
        entry: str = "",
        rename: Mapping[str, str] | None = None,
    ) -> None:
        self.paths, self.metadata = tuple(paths), dict[str, str]()
        files = dict[str, Any]()
        inner = dict[str, str]()
        for path in paths:
            handle = _open(path)
            if not isinstance(handle, dict):
                self.metadata |= handle.metadata() or {}
            held = {name: name for name in handle.keys()}  # noqa: SIM118 (a safetensors handle is no mapping)
            if isinstance(handle, dict):
                if entry:
                    handle = below(handle, entry, str(path))
                else:
                    self.taken, handle = flat(handle, str(path))
                held = {name: name for name in handle}
            elif within := entry or average_of(by_first(held)):
                self.taken = "" if entry else within
                held = {n.removeprefix(f"{within}."): n for n in held if n.startswith(f"{within}.")}
            for name, own in held.items():
                if name in files:
                    raise ConfigError.at(str(path), f"holds {name!r}, which another file of the checkpoint holds too")
                files[name], inner[name] = handle, own
        if entry and not files:
            raise ConfigError.at("--entry", f"{paths[0]} has no tensor whose name begins with '{entry}.'")
        names = renamed(unwrapped(files), rename or {}, str(paths[0]))
        if len(names) < len(files):
            raise ConfigError.at(str(paths[0]), "holds tensors that differ in the wrappers of their names alone")
        self._where = {name: (files[own], inner[own]) for name, own in names.items()}
        self.hidden = tuple(name for name in self._where if any(_below(name, prefix) for prefix in hidden))
        for name in self.hidden:
            del self._where[name]

    def without(self, beginning: str) -> TensorFile:
        """The same tensors, without the beginning that all their names have."""
        other = copy(self)
        other._where = {name.removeprefix(beginning): place for name, place in self._where.items()}
        return other

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence, where there was a choice of weights."""
        if not self.taken.endswith(AVERAGE):
            return ()
        other = self.taken.removesuffix(AVERAGE)
        return (f"of its weights the running average, {self.taken!r}, is taken; --entry {other} takes the others",)

    def __getitem__(self, name: str) -> Tensor:
        handle, own = self._where[name]
        tensor: Tensor = handle[own] if isinstance(handle, dict) else handle.get_tensor(own)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header alone; `ConfigError` where there is no such tensor."""
        if name not in self._where:
            raise ConfigError.at(str(self.paths[0]), f"has no tensor {name!r}, so it is not of the form it claims")
        handle, own = self._where[name]
        return tuple(handle[own].shape if isinstance(handle, dict) else handle.get_slice(own).get_shape())


@dataclass(frozen=True)
class Foreign:
    """A checkpoint as an importer sees it."""

    path: Path
    """The folder or file that was named."""
    tensors: TensorFile
    settings: Mapping[str, Any]
    """Its config as plain data, with what the user assumes laid on and what the user drops taken out."""
    assumed: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    origin: str = ""
    """Where it comes from: `hf:owner/name`, or a path."""
    revision: str | None = None
    """The hub's commit."""
    card_model: ModelConfig | None = None
    """The model of the card that names the checkpoint: for formats that may come without a config."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    entry: str = ""
    notes: tuple[str, ...] = ()
    """Sentences on what was done to its names."""

    def without(self, beginning: str) -> Foreign:
        """The same checkpoint, without the beginning that all names of its tensors have."""
        note = f"all names of its tensors begin with {beginning!r}, which is left out"
        return replace(self, tensors=self.tensors.without(beginning), notes=(*self.notes, note))

    def config(self) -> Settings:
        """The settings, none of them read yet."""
        return Settings(self.settings)

    def unlike_card(self, config: ModelConfig) -> tuple[str, ...]:
        """A note, where the card that names the checkpoint describes another model than `config`, which is the
        checkpoint's own: cards of published models are reconstructions."""
        if self.card_model is None or type(self.card_model) is not type(config):
            return ()
        own, card = (_flat(model.model_dump(mode="json")) for model in (config, self.card_model))
        other = [path for path in sorted(own | card) if own.get(path) != card.get(path)]
        told = [f"{path} {own.get(path)} (card: {card.get(path)})" for path in other]
        return (f"its config is not the card's, and counts: {', '.join(told)}",) if told else ()

    def beside(self, name: str) -> Path | None:
        """A file in the checkpoint's folder, if it is there."""
        path = (self.path if self.path.is_dir() else self.path.parent) / name
        return path if path.is_file() else None


@dataclass(frozen=True)
class Imported:
    """A checkpoint in our terms."""

    config: ModelConfig
    state: Mapping[str, Tensor]
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of use that the checkpoint itself names."""
    notes: tuple[str, ...] = ()
    """What a user must know: what was inferred, what is not there."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The checkpoint's name of each tensor of `state`, for messages."""


def open_foreign(
    path: Path,
    *,
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    entry: str = "",
    origin: str = "",
    revision: str | None = None,
    card_model: ModelConfig | None = None,
) -> Foreign:
    """Open a checkpoint: a folder, or a weights file with its config beside it or in its own metadata.

    Args:
        assume: settings, by dotted path, that the config lacks or has otherwise.
        drop: dotted paths of settings and of tensors (with all below them) to go without.
        rename: what is put in the place of the beginnings of tensors' names, by the beginning.
        entry: where in a file its tensors are: the name of a mapping, dotted, or the beginning of their names.

    Raises:
        ConfigError: it is broken, would run code, or has nothing of what is to be dropped, renamed or entered.
    """
    weights = _weights(path)
    tensors = TensorFile(weights, drop, entry=entry, rename=rename)
    settings = _settings(path, weights[0], tensors.metadata)
    for dotted in drop:
        removed = _remove(settings, dotted.split("."))
        if not removed and not any(_below(name, dotted) for name in tensors.hidden):
            raise ConfigError.at("--drop", f"{path} has neither a setting nor a tensor {dotted!r}")
    for dotted, value in (assume or {}).items():
        _put(settings, dotted.split("."), value)
    given = dict(assume or {}), tuple(drop), origin or str(path), revision, card_model
    return Foreign(path, tensors, settings, *given, dict(rename or {}), entry, tensors.notes)


# --- files -------------------------------------------------------------------------------------------------------


def _weights(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError.at(str(path), "is no file and no folder")
    for name in WEIGHTS:
        index = path / f"{name}.index.json"
        if index.is_file():
            return _shards(index)
        if (path / name).is_file():
            return [path / name]
    files = sorted(
        p for p in path.iterdir() if p.suffix in (".safetensors", *PICKLES) and not p.stem.startswith("case")
    )
    # a model in two halves is opened by its first; the importer finds the other beside it
    halves = [p for p in files if "encoder" in p.stem and p.with_name(p.name.replace("encoder", "decoder")) in files]
    if len(files) == 1 or len(halves) == 1:
        return halves or files
    listed = ", ".join(p.name for p in files) or "no weights"
    raise ConfigError.at(str(path), f"holds {listed}; name the one file to read, or call it model.safetensors")


def _shards(index: Path) -> list[Path]:
    """The files of a checkpoint that an index names, all of them beside it."""
    held = read_config(index).get("weight_map")
    named = sorted({str(name) for name in held.values()}) if isinstance(held, dict) else []
    lost = [name for name in named if Path(name).name != name or not index.with_name(name).is_file()]
    if lost or not named:
        raise ConfigError.at(str(index), f"names files that are not beside it: {', '.join(lost) or 'none at all'}")
    return [index.with_name(name) for name in named]


def _open(path: Path) -> Any:
    refuse_pointer(path)
    with path.open("rb") as file:
        head = file.read(4)
    if path.suffix == ".safetensors" or (path.suffix not in PICKLES and not _is_pickle(head)):
        try:
            return safe_open(path, framework="pt")
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError.at(str(path), f"is not a whole safetensors file ({error}); fetch it again") from None
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([*SCRIPTS]):
            warnings.simplefilter("ignore", UserWarning)  # of protocols that torch did not write
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a broken or hostile stream makes the unpickler raise anything, and run nothing
        text = f"is not a plain file of tensors, so nothing in it was run ({_why(error)}); ask for it as safetensors, "
        text += "or where you trust who made it write its tensors so yourself (docs/checkpoints.md)"
        raise ConfigError.at(str(path), text) from None
    if not isinstance(state, dict):
        raise ConfigError.at(str(path), "holds something else than tensors by name; ask for the bare state dict")
    return state


def _why(error: Exception) -> str:
    """The unpickler's reason without its advice, which is to trust the file."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {named[1]}" if named else "it is cut short, or says more than tensors do"


def _is_pickle(head: bytes) -> bool:
    return head[:2] == b"PK" or head[:1] == b"\x80"


def _settings(path: Path, weights: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    folder = path if path.is_dir() else path.parent
    stems = () if path.is_dir() else tuple(f"{weights.stem}{Path(name).suffix}" for name in CONFIGS)
    for name in (*stems, *CONFIGS):
        if (folder / name).is_file():
            return read_config(folder / name)
    settings = {}
    for key, text in metadata.items():
        where = f"{weights} (metadata {key!r})"
        if len(text) > MAX_CONFIG:
            raise ConfigError.at(where, f"has {len(text):,} characters; a config has at most {MAX_CONFIG:,}")
        if key != "format":
            # a mapping is what we are after; any other text is a plain value, such as a name
            settings[key] = plain(parse(text, where), where) if text.lstrip()[:1] in ("{", "[", "(") else _scalar(text)
    return settings


def _scalar(text: str) -> Any:
    return {"None": None, "null": None, "True": True, "False": False}.get(text, text)


def _flat(data: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flat


def _below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _put(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError.at("--assume", f"{'.'.join(path)}: {part!r} is {inner!r}, which has no settings below it")
        data = inner
    data[path[-1]] = value


def _remove(data: dict[str, Any], path: Sequence[str]) -> bool:
    inner: Any = data
    for part in path[:-1]:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if not isinstance(inner, dict) or path[-1] not in inner:
        return False
    del inner[path[-1]]
    return True
