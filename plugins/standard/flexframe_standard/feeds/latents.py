"""Latents and features that were computed before, as a run's data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexframe.data.inventory import changed, changed_since
from flexframe.data.loader import ahead, conditioned, steps
from flexframe.data.shards import Shards
from flexframe.data.workers import loaded
from flexframe.files import refuse_other
from flexframe.models.fingerprint import codec_fingerprint
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Codec
from flexframe.rng import Rng
from flexframe.tokens import Batch
from flexframe.train.feeds.base import Feed
from flexframe.train.trainee import Learner
from flexframe_registry import ConfigError, TokenizerConfig, TrainConfig
from flexframe_standard.feeds.configs import LatentsFeedConfig


def _check_source(training: TrainConfig, shards: Shards) -> None:
    """Raise `ConfigError` where a folder's contents are of other data than the run's."""
    data, model, about = training.run.data, training.model, shards.about
    assert isinstance(model, TokenizerConfig)
    told = f"is not what the {about.kind} in {shards.folder} were made of"
    now = data.model_dump(mode="json")
    refuse_other("run.data", told, data.again(about.source), now, "set run.data to what it was")
    if about.image_size != model.image_size:
        text = f"holds {about.kind} of images of {about.image_size}, and the model's are {model.image_size}"
        raise ConfigError.at(str(shards.folder), text)


def _check_features(config: TrainConfig, features: Shards | None, folder: Path) -> None:
    for i, objective in enumerate(config.objectives):
        place = f"run.objectives.{i}"
        try:
            wanted = objective.precomputes()
        except ValueError as error:
            raise ConfigError.at(place, f"objective {objective.type!r}: {error}") from None
        for name, settings in wanted.items():
            if features is None or name not in features.about.of:
                text = f"objective {objective.type!r} looks at images, and {folder} holds no features {name!r} for it"
                raise ConfigError.at(place, f"{text}; make them: flexframe precompute features CARD -o {folder}")
            there = {key: features.about.of[name].get(key) for key in settings}
            told = f"is not what the features {name!r} in {folder} were made for"
            refuse_other(place, told, there, settings, "set it to what it was, or precompute them again")


class _Rows:
    """Numbers, labels, latents, and features by their names' order."""

    def __init__(self, latents: Shards, features: Shards | None) -> None:
        self.latents, self.features = latents, features
        self.names = sorted(features.about.of) if features is not None else []

    def __call__(self, rows: list[int]) -> tuple[Tensor, ...]:
        taken = self.latents.take(rows)
        more = self.features.take(rows) if self.features is not None else {}
        return torch.tensor(rows), taken["labels"], taken["latents"], *(more[name] for name in self.names)


class Latents(Feed[LatentsFeedConfig]):
    """Latents, and features for objectives; images are not read."""

    def __init__(self, config: LatentsFeedConfig, training: TrainConfig, device: torch.device) -> None:
        super().__init__(config, training, device)
        folder = Path(config.path)
        model = training.model
        if isinstance(model, TokenizerConfig) and model.encoder.reads == "images":
            text = f"reads no images, and encoder {model.encoder.type!r} does; set run.feed.type to images"
            raise ConfigError.at("run.feed", text)
        if isinstance(model, TokenizerConfig) and model.decoder.texts() is not None:
            text = f"has no captions, and decoder {model.decoder.type!r} reads texts; set run.feed.type to images"
            raise ConfigError.at("run.feed", text)
        self.latents = Shards.read(folder, "latents")
        features = Shards.read(folder, "features") if (folder / "features.json").is_file() else None
        for shards in (self.latents, *([features] if features is not None else [])):
            _check_source(training, shards)
        _check_features(training, features, folder)
        self.rows_of = _Rows(self.latents, features)
        self.codec: Codec | None = None

    def __len__(self) -> int:
        return len(self.latents)

    def inventory(self) -> Mapping[str, Any]:
        digest = hashlib.sha256()
        for shards in self._kinds():
            told = shards.about.model_dump(mode="json", exclude={"flexframe", "images"})
            images = {name: value for name, value in (shards.about.images or {}).items() if name != "times"}
            digest.update(json.dumps([told, images], sort_keys=True).encode())
        return {"count": len(self), "contents": digest.hexdigest()}

    def outdated(self) -> Sequence[str]:
        data, told = self.training.run.data, []
        for shards in self._kinds():
            about = shards.about
            since = changed_since(about.images, data, about.image_size)
            if since:
                text = f"{shards.folder} holds {about.kind} of images that have changed since: {since}; make them again"
                told.append(f"{text}: flexframe precompute {about.kind} ... -o FOLDER")
        features = self.rows_of.features
        if features is not None and self.latents.about.images and not told:
            then = {name: each for name, each in self.latents.about.images.items() if name != "times"}
            other = changed(then, features.about.images)
            told += [f"{self.latents.folder} holds features of other images than its latents: {other}"] if other else []
        return told

    def _kinds(self) -> list[Shards]:
        return [each for each in (self.latents, self.rows_of.features) if each is not None]

    def attach(self, trainee: Learner, check: bool) -> None:
        model = trainee.model
        assert isinstance(model, Tokenizer)
        self.codec = model.codec
        of = self.latents.about.of["latents"]
        if check and codec_fingerprint(model.codec) != of["fingerprint"]:
            text = f"holds latents of another codec ({of['codec']}) than the run's, or of this one with other weights"
            raise ConfigError.at(str(self.latents.folder), f"{text}; precompute them again, or name their codec")
        features, own = self.rows_of.features, trainee.facts()
        if features is None or not check:
            return
        for name in self.rows_of.names:
            there = features.about.of[name]
            if any(each == there["objective"] for each in map(_kind, own)) and there["facts"] not in own.values():
                text = f"holds features {name!r} of a teacher with other weights; precompute them again"
                raise ConfigError.at(str(features.folder), text)

    def batches(self, start: int) -> Iterator[Batch]:
        run = self.training.run
        rows = steps(len(self), run, start, self.share)
        read = loaded(self.rows_of, rows, self.config.workers, self.device.type == "cuda")

        def moved() -> Iterator[tuple[Tensor, ...]]:
            for index, labels, *tensors in read:
                yield labels, *(each.to(self.device, non_blocking=True) for each in (index, *tensors))

        for step, (labels, index, *tensors) in enumerate(ahead(moved(), self.device), start):
            yield self._batch(index, labels, tensors, Rng(run.seed, index, step))

    def examples(self, count: int) -> Batch | None:
        rows = list(range(min(count, len(self))))
        index, labels, *tensors = self.rows_of(rows)
        return self._batch(index.to(self.device), labels, [t.to(self.device) for t in tensors], Rng(0, index))

    def _batch(self, index: Tensor, labels: Tensor, tensors: list[Tensor], rng: Rng) -> Batch:
        latents, *features = (each.float() if each.is_floating_point() else each for each in tensors)
        if self.latents.about.of["latents"]["posterior"] == "moments":
            assert self.codec is not None
            latents = self.codec.drawn(latents, rng=rng.rows(index))
        named = dict(zip(self.rows_of.names, features, strict=True))
        return Batch(index, latents=latents, features=named, condition=conditioned(labels, self.device))


def _kind(owner: str) -> str:
    """The type of an objective, from what the trainee calls it where there are several."""
    return owner.partition(".")[0]
