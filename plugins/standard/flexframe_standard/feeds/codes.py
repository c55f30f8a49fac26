"""Codes of a frozen tokenizer: made on the way, or read from a token file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexframe.data.captions import Captions
from flexframe.data.held import hold
from flexframe.data.inventory import changed_since
from flexframe.data.loader import ahead, batches, conditioned, steps
from flexframe.data.scale import Numbers, Scale, hardly_vary, scaled
from flexframe.data.source import Source
from flexframe.data.tokenfile import TokenFile
from flexframe.files import refuse_other
from flexframe.models.fingerprint import fingerprint
from flexframe.rng import Rng
from flexframe.store.load import load
from flexframe.store.places import preprocessing
from flexframe.tokens import Batch, Codes, prefix
from flexframe.train.feeds.base import Feed
from flexframe_registry import ConfigError, GeneratorConfig, TrainConfig, catalogue
from flexframe_standard.feeds.configs import CodesFeedConfig, TokenFileFeedConfig, TokensFeedConfig

MEASURED = 1024
"""Images of which the mean and the deviation of continuous tokens are measured, where no file has them."""
LABELS = 10_000
"""Labels that are looked at before the first step; of more, so many, evenly spaced."""


class Tokenized(Feed[TokensFeedConfig]):
    """Images, and their codes as a frozen tokenizer gives them."""

    def __init__(self, config: TokensFeedConfig, training: TrainConfig, device: torch.device) -> None:
        model = _prior(training)
        assert model.tokenizer is not None  # as the config sees to
        tokenizer = load(model.tokenizer)
        model.check_tokenizer(tokenizer.config, model.tokenizer)
        data = training.run.data.resized(preprocessing(model.tokenizer).resize)
        source: Source = catalogue().build(data, tokenizer.config.image_size, place="run.data")
        source.want("none" if model.classes is None else "labels")
        super().__init__(config, _described(training, fingerprint(tokenizer), source.class_names()), device)
        self.captions = None if model.conditioner is None else Captions(source)
        self.source, self.tokenizer, self.length = source, tokenizer.to(device), model.length
        if model.classes is not None:
            count = len(source)
            rows = range(count) if count <= LABELS else [i * count // LABELS for i in range(LABELS)]
            _check_labels(source.read_labels(rows), rows, model.classes, "run.data")
        self.transforms = [catalogue().build(each) for each in training.run.transforms]
        self.kept: dict[int, Tensor] | None = {} if config.keep_tokens else None
        self.count = _rest(len(source), config)
        self.held = hold(source, device) if config.preload else None
        self.doubts: list[str] = []
        if model.dim is not None:
            self.training = _scaled(self.training, *self._measured(model.dim), "run.data")

    def __len__(self) -> int:
        return self.count

    def batches(self, start: int) -> Iterator[Batch]:
        run, kept = self.training.run, self.config.keep_tokens
        images = batches(
            self.source, run, start, self.device, self.count, self.share, self.held, self.config.workers,
            self.transforms,
        )  # fmt: skip
        for step, batch in enumerate(images, start):
            if self.captions is not None:
                batch = replace(batch, condition=self.captions.of(batch.index, Rng(run.seed, batch.index, step)))
            # codes that are kept are drawn once, whatever the step
            yield self._coded(batch, Rng(run.seed, batch.index, 0 if kept else step), self.kept)

    def held_out(self) -> Iterator[Batch]:
        size = self.training.run.batch_size
        for first in range(self.count, len(self.source), size):
            numbers = range(first, min(first + size, len(self.source)))
            samples = self.source.samples(numbers)
            index = torch.tensor(numbers, device=self.device)
            images = torch.stack([sample.image for sample in samples]).to(self.device).float() / 255
            labels = torch.tensor([-1 if sample.label is None else sample.label for sample in samples])
            rng = Rng(self.training.run.seed, index)
            told = conditioned(labels, self.device) if self.captions is None else self.captions.of(index, rng)
            yield self._coded(Batch(index, images, condition=told), rng, {} if self.kept is None else self.kept)

    def inventory(self) -> Mapping[str, Any]:
        return self.source.inventory()

    def remarks(self) -> Sequence[str]:
        return [*self.source.remarks(), *self.doubts]

    def _measured(self, dim: int) -> tuple[Numbers, Numbers]:
        """Mean and deviation of the tokens of images that are trained on: of all, or of so many, evenly spaced."""
        rows, size = range(0, self.count, -(-self.count // MEASURED)), self.training.run.batch_size
        scale, seen = Scale(dim), list[np.ndarray]()
        for first in range(0, len(rows), size):
            numbers = rows[first : first + size]
            index = torch.tensor(numbers, device=self.device)
            images = torch.stack([each.image for each in self.source.samples(numbers)]).to(self.device).float() / 255
            coded = self._coded(Batch(index, images), Rng(self.training.run.seed, index), self.kept)
            assert coded.codes is not None
            seen.append(coded.codes.codes.cpu().numpy())
            scale.add(seen[-1].reshape(-1, dim))
        self.doubts = hardly_vary(np.concatenate(seen), "run.data")
        return scale.mean, scale.deviation

    def _coded(self, batch: Batch, rng: Rng, kept: dict[int, Tensor] | None) -> Batch:
        assert batch.images is not None
        if kept is None:
            codes = self._codes(batch.images, rng)
        else:
            numbers = batch.index.tolist()
            new = [place for place, number in enumerate(numbers) if number not in kept]
            if new:
                places = torch.tensor(new, device=batch.index.device)
                made = self._codes(batch.images[places], rng.rows(batch.index[places]))
                kept |= {numbers[place]: row.clone() for place, row in zip(new, made, strict=True)}
            codes = torch.stack([kept[number] for number in numbers])
        keep = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device)
        return replace(batch, images=None, codes=Codes(codes, keep))

    def _codes(self, images: Tensor, rng: Rng) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            kept = None if self.tokenizer.config.encoder.prefixes() else self.length
            return self.tokenizer.tokenized(images, lengths=kept, rng=rng).codes[:, : self.length]


class Stored(Feed[TokenFileFeedConfig]):
    """The rows of a token file, held in memory in the file's own type."""

    def __init__(self, config: TokenFileFeedConfig, training: TrainConfig, device: torch.device) -> None:
        self.file = file = TokenFile(config.path)
        model = _prior(training)
        _check_file(training, model, file)
        described = _described(training, file.about.fingerprint, file.about.class_names)
        if model.dim is not None:
            assert file.about.mean is not None  # as _check_file sees to
            assert file.about.deviation is not None
            described = _scaled(described, file.about.mean, file.about.deviation, str(file.path))
        super().__init__(config, described, device)
        self.captions = None
        if model.conditioner is not None:  # which no token file has
            if file.about.source is None:
                text = "does not say which images its rows are, and the prior reads their captions"
                raise ConfigError.at(str(file.path), f"{text}; make it again: flexframe precompute tokens")
            source = catalogue().build(training.run.data, file.about.image_size, place="run.data")
            self.captions = Captions(source)
            if len(source) != len(file):
                text = f"has {len(source):,} images, and {file.path} rows of {len(file):,}"
                raise ConfigError.at("run.data", f"{text}, so that captions would stand beside other images")
        self.table, self.length = file.table(), model.length
        if model.classes is not None:
            labels = [None if each < 0 else each for each in self.table.labels.tolist()]
            _check_labels(labels, range(len(labels)), model.classes, str(file.path))
        self.count = _rest(len(file), config)

    def __len__(self) -> int:
        return self.count

    def batches(self, start: int) -> Iterator[Batch]:
        rows = steps(self.count, self.training.run, start, self.share)
        for step, (codes, lengths, index, labels) in enumerate(ahead(map(self._rows, rows), self.device), start):
            yield self._batch(codes, lengths, index, labels, step)

    def held_out(self) -> Iterator[Batch]:
        size = self.training.run.batch_size
        for first in range(self.count, len(self.file), size):
            yield self._batch(*self._rows(range(first, min(first + size, len(self.file)))))

    def inventory(self) -> Mapping[str, Any]:
        digest = hashlib.sha256()
        for each in (self.table.codes, self.table.lengths, self.table.labels):
            digest.update(np.ascontiguousarray(each).data)
        known = {"count": len(self.file), "contents": digest.hexdigest()}
        if self.captions is None:
            return known
        return known | {"captions": self.captions.source.inventory().get("captions")}

    def remarks(self) -> Sequence[str]:
        if self.file.about.codebook_size is not None:
            return ()
        whole = np.flatnonzero(self.table.lengths == self.file.longest)[:MEASURED]
        return hardly_vary(self.table.codes[whole], str(self.file.path))

    def outdated(self) -> Sequence[str]:
        about = self.file.about
        told = changed_since(about.images, self.training.run.data, about.image_size)
        again = f"make it again: flexframe precompute tokens -m {about.model}"
        return [f"{self.file.path} holds tokens of images that have changed since: {told}; {again}"] if told else []

    def _rows(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes, lengths and numbers on the device, labels on the CPU; from pinned memory, which waits for none."""
        places, most = np.asarray(rows), self.length
        kind = np.int64 if self.file.about.codebook_size is not None else np.float32
        read = self.table.codes[places][:, :most].astype(kind), self.table.lengths[places], places
        codes, lengths, index = (torch.from_numpy(each) for each in read)
        if self.device.type == "cuda":
            codes, lengths, index = (each.pin_memory() for each in (codes, lengths, index))
        codes, lengths, index = (each.to(self.device, non_blocking=True) for each in (codes, lengths, index))
        return codes, lengths, index, torch.from_numpy(self.table.labels[places])

    def _batch(self, codes: Tensor, lengths: Tensor, index: Tensor, labels: Tensor, step: int = 0) -> Batch:
        keep = prefix(lengths, codes.shape[1])
        condition = conditioned(labels, self.device)
        if self.captions is not None:
            condition = self.captions.of(index, Rng(self.training.run.seed, index, step))
        return Batch(index, codes=Codes(codes.masked_fill(~keep[..., None], 0), keep), condition=condition)


def _check_file(config: TrainConfig, model: GeneratorConfig, file: TokenFile) -> None:
    """Raise `ConfigError` unless the file's tokens are of the prior's tokenizer and of the run's data."""
    about, place = file.about, str(file.path)
    if (about.codebook_size is None) != (model.dim is not None):
        kinds = ("continuous tokens", "integer codes")
        own, theirs = kinds if about.codebook_size is None else kinds[::-1]
        raise ConfigError.at(place, f"holds {own}, and prior {model.prior.type!r} models {theirs}")
    held: dict[str, Any] = {"codebook_size": about.codebook_size, "codebooks": about.codebooks}
    if model.dim is not None:
        held = {"dim": about.dim}
        if about.mean is None or about.deviation is None:
            text = "has no mean and deviation of its continuous tokens; write it with flexframe precompute tokens"
            raise ConfigError.at(place, text)
    wrong = [f"{name} is {value}, the prior's {getattr(model, name)}" for name, value in held.items()
             if value != getattr(model, name)]  # fmt: skip
    if wrong:
        raise ConfigError.at(place, f"holds other codes: {'; '.join(wrong)}")
    if not about.prefixes and file.longest > model.length:
        text = f"has {file.longest} tokens of an image, which hang on how many are kept, and the prior models"
        raise ConfigError.at(place, f"{text} {model.length}: the first ones are not those; set length={file.longest}")
    if model.tokenizer is not None and fingerprint(load(model.tokenizer)) != about.fingerprint:
        text = f"holds tokens of another tokenizer ({about.model}), or of {model.tokenizer} before it was trained anew"
        raise ConfigError.at(place, f"{text}; make it again: flexframe precompute tokens -m {model.tokenizer}")
    if about.source is not None:
        was, now = config.run.data.again(about.source), config.run.data.model_dump(mode="json")
        refuse_other("run.data", f"is not what {place} was made of", was, now, "set run.data to what it was")


def _check_labels(labels: Sequence[int | None] | None, rows: Sequence[int], classes: int, place: str) -> None:
    """Raise `ConfigError` where labels, as far as they are known, are none of a prior's classes."""
    if labels is None:
        return
    if all(each is None for each in labels):
        text = "has no labels, and the prior is conditioned on classes; give labelled data, or model.classes=null"
        raise ConfigError.at(place, text)
    wrong = next((pair for pair in zip(rows, labels, strict=True) if (pair[1] or 0) >= classes), None)
    if wrong is not None:
        text = f"row {wrong[0]} has label {wrong[1]}, and the prior's classes are 0..{classes - 1}"
        highest = max(each for each in labels if each is not None)
        raise ConfigError.at(place, f"{text}; set model.classes={highest + 1} or more, or mend the labels")


def _described(config: TrainConfig, print_of: str, names: Sequence[str]) -> TrainConfig:
    """The config with the tokenizer's fingerprint, the classes' names and the hash of a frozen text encoder in its
    model."""
    model = _prior(config)
    if model.fingerprint is not None and model.fingerprint != print_of:
        text = "is not that of the run's tokens: they are of another tokenizer, or of this one before it changed"
        raise ConfigError.at("model.fingerprint", text)
    update: dict[str, Any] = {"fingerprint": print_of}
    if model.conditioner is not None:
        update["conditioner"] = catalogue().build(model.conditioner, place="model.conditioner").settled()
    if model.classes is not None and names and not model.class_names:
        if len(names) != model.classes:
            text = (
                f"is {model.classes}; the data have {len(names)} classes (run.data.classes names those of all the data)"
            )
            raise ConfigError.at("model.classes", text)
        update["class_names"] = tuple(names)
    if model.class_names and names and tuple(names) != tuple(model.class_names):
        other = next(pair for pair in zip_longest(model.class_names, names) if pair[0] != pair[1])
        text = f"are others than the data's, {other[0]!r} where these have {other[1]!r}; set run.data.classes to them"
        raise ConfigError.at("model.class_names", text)
    return config.model_copy(update={"model": model.model_copy(update=update)})


def _scaled(config: TrainConfig, mean: Numbers, deviation: Numbers, place: str) -> TrainConfig:
    """The config with the scale of its model's continuous tokens, as measured at `place`."""
    return config.model_copy(update={"model": scaled(_prior(config), mean, deviation, place)})


def _rest(count: int, config: CodesFeedConfig) -> int:
    """Number of rows left to train on."""
    if config.held_out >= count:
        text = f"is {config.held_out}, and the data have {count:,} rows; leave some to train on"
        raise ConfigError.at("run.feed.held_out", text)
    return count - config.held_out


def _prior(training: TrainConfig) -> GeneratorConfig:
    """The prior's config; that a feed of codes is for no other model has been checked with the config."""
    assert isinstance(training.model, GeneratorConfig)
    return training.model
