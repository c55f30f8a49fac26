"""`flexframe.load`: a model from a card, a path or the hub, in our own format or a published one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from flexframe.importing import Foreign, Imported, open_foreign, understood
from flexframe.models.build import Model, assemble, not_finite, told
from flexframe.models.codec import CodecModel
from flexframe.models.generator import Generator
from flexframe.models.modelfile import header_of, read
from flexframe.models.tokenizer import Tokenizer
from flexframe.store.places import Place, fetch, locate, log
from flexframe_registry import CodecModelConfig, ConfigError, ModelConfig, TokenizerConfig, lost
from flexframe_registry.files import put, split_override
from flexframe_registry.models import ModelKind, read_model


@overload
def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    entry: str = "",
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
    rename: Mapping[str, str] | None = None,
    entry: str = "",
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
    rename: Mapping[str, str] | None = None,
    entry: str = "",
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
    rename: Mapping[str, str] | None = None,
    entry: str = "",
    kind: None,
) -> Model: ...


def load(
    where: str | Path,
    *,
    device: str | torch.device = "cpu",
    overrides: Sequence[str] = (),
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    entry: str = "",
    kind: ModelKind | None = "tokenizer",
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
        rename: beginnings of the names of a published checkpoint's tensors, and what is put in their place.
        entry: where in a published file its tensors are (`ema`), if there are several of that kind.
        kind: what it must be; None takes anything.

    Raises:
        ConfigError: an unknown name, a file that is broken or of another format, tensors that do not fit.
    """
    overrides, drop = ([each] if isinstance(each, str) else each for each in (overrides, drop))  # one, and no letters
    place = locate(where)
    checkpoint, about = imported(place, assume=assume, drop=drop, rename=rename, entry=entry)
    if kind is not None and checkpoint.config.kind != kind:
        held = checkpoint.config.kind
        raise ConfigError.at(str(where), f"holds a {held}, not a {kind}; load it with kind={held!r}")
    for note in checkpoint.notes:
        log.warning("%s: %s", place.id, note)
    sampling = dict(checkpoint.sampling)
    if place.card is not None:
        sampling |= place.card.file.sampling
    config = checkpoint.config
    if overrides:
        config, sampling = override(config, sampling, overrides)
        if isinstance(config, TokenizerConfig):
            config = config.following(checkpoint.config, config.parts)
    if place.card is not None and config.sampling is not None:
        config.sampling.read(sampling, f"{place.card.id}: sampling")  # what is wrong is told with the card's name
    model = assemble(config, checkpoint.state, place.id, sampling, checkpoint.names)
    model.id = place.id.removeprefix("card:")
    model.about = about
    return model.eval().to(device)


def load_file(path: Path, *, device: str | torch.device = "cpu") -> Tokenizer:
    """A tokenizer from a file, in evaluation mode."""
    return load(path, device=device)


def imported(
    place: Place,
    *,
    assume: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    entry: str = "",
    importer: str | None = None,
) -> tuple[Imported, dict[str, Any]]:
    """Config and state of a place, whatever its format, and what is known about them.

    Raises:
        ConfigError: it is broken, of no known format, or of ours with something to assume or to drop; or a weight is
            not finite.
    """
    path, commit = fetch(place)
    if path.is_file() and header_of(path) is not None:
        if assume or drop or rename or entry or importer:
            text = "is a model of our own format: it has nothing to assume, to drop, to rename or to enter, "
            text += "and no importer reads it"
            raise ConfigError.at(str(path), text)
        header, state = read(path)
        _see_finite(state, path)
        with lost.named(path):
            config = read_model(header["kind"], header["config"], str(path))
        own = Imported(config, state, header["sampling"])
        return replace(own, config=_around(config, place)), header["about"]
    described = None if place.card is None else place.card.described
    weights = None if place.card is None else place.card.weighted().file.weights
    entry = entry or (weights.entry if weights is not None else "")
    given: dict[str, Any] = {"assume": assume, "drop": drop, "rename": rename, "entry": entry}
    opened = open_foreign(path, **given, origin=place.id, revision=commit, card_model=described)
    source, reader = understood(opened, importer)
    checkpoint = reader.convert(source)
    _see_finite(checkpoint.state, path)
    notes, config = (*source.notes, *checkpoint.notes), _around(checkpoint.config, place)
    if config is not checkpoint.config:
        notes = (*notes, *source.unlike_card(config))
    checkpoint = replace(checkpoint, config=config, notes=notes)
    return checkpoint, about_import(source, checkpoint)


def _around(config: ModelConfig, place: Place) -> ModelConfig:
    """The tokenizer that a card describes around a codec, where its weights are that codec's alone: the card's but for
    the codec, which is as its checkpoint has it. Any other config as it is.

    Raises:
        ConfigError: the card's other parts do not fit the codec.
    """
    card = place.card
    if card is None or not isinstance(config, CodecModelConfig) or not isinstance(card.described, TokenizerConfig):
        return config
    raw = card.described.model_dump(mode="json") | {"codec": config.codec.model_dump(mode="json")}
    return TokenizerConfig.read(raw, card.id)


def _see_finite(state: Mapping[str, Tensor], path: Path) -> None:
    wrong = not_finite(state)
    if wrong:
        advice = "what trained it went wrong before it was saved; take an earlier checkpoint, or train it again"
        raise ConfigError.at(str(path), f"cannot be used: {told(wrong)}; {advice}")


def about_import(source: Foreign, checkpoint: Imported) -> dict[str, Any]:
    """The record of an import: where it is from, what was assumed and dropped, what a user must know."""
    about = {
        "source": source.origin,
        "revision": source.revision,
        "assumed": dict(source.assumed),
        "dropped": list(source.dropped),
        "notes": list(checkpoint.notes),
    }
    if source.renamed or source.entry:
        about |= {"renamed": dict(source.renamed), "entry": source.entry}
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
