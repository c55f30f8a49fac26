"""Checks of metrics."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

import torch

from flexframe.bench.metric import Metric, Reconstructions, Remake, Scratch
from flexframe.data.source import Sample, Source
from flexframe.rng import Rng
from flexframe.tokens import Tokens, prefix
from flexframe_registry import Component, Spec
from flexframe_registry.kinds import SourceConfig

from .materials import CODES, Check, Fields, close, spec_of, tiny

IMAGES = 8


def same(actual: Any, expected: Any, text: str = "numbers differ") -> None:
    """Fail, in these words, unless numbers are equal but for rounding."""

    def say(told: str) -> str:
        return f"{text}: {told}"

    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6, equal_nan=True, msg=say)


class Pictures(Source):
    """Random labelled images in memory: the images of a suite."""

    def __init__(self) -> None:
        super().__init__(SourceConfig(type="pictures"), (16, 16))
        draws = Rng(2, torch.arange(IMAGES))
        self.images = draws.integers("images", 256, (3, 16, 16)).byte()
        self.labels = draws.integers("labels", 10).tolist()

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], self.labels[index], f"picture-{index}")

    def protocol(self) -> Mapping[str, Any]:
        return {"made": "at random"}


class Again(Remake):
    """A model that encodes as it did, and whose pictures are a little darker than those it was given."""

    def __init__(self, made: Tokens, exact: torch.Tensor, rows: torch.Tensor) -> None:
        self.made, self.exact, self.rows = made, exact, rows

    def encode(self, images: torch.Tensor) -> Tokens:
        return self.made

    def decode(self, tokens: Tokens, draw: int = 0) -> torch.Tensor:
        noise = Rng(3 + draw, self.rows).normal("again", self.exact.shape[1:])
        return (0.9 * self.exact + 0.05 * noise).clamp(0, 1)


def reconstructions(source: Pictures, spec: Spec, start: int = 0, stop: int = IMAGES) -> Reconstructions:
    """Images `start` to `stop`, and a noisy form of each that is the same in whatever batch it stands."""
    rows = torch.arange(start, stop)
    draws, width = Rng(3, rows), spec.tokens
    real = source.images[start:stop]
    exact = (real.float() / 255 + 0.2 * draws.normal("noise", real.shape[1:])).clamp(0, 1)
    if width.codebook_size is None:
        codes = draws.normal("codes", (width.length, width.dim))
    else:
        codes = draws.integers("codes", width.codebook_size, (width.length, width.codebooks))
    keep = prefix(1 + rows % width.length, width.length)
    made = Tokens(draws.normal("values", (width.length, width.dim)), keep, codes)
    rounded = (exact * 255).round().byte()
    return Reconstructions(
        real.clone(), rounded, exact, source.labels[start:stop], made, remake=Again(made, exact, rows)
    )


def suites(component: Component, fields: Fields) -> list[tuple[Metric, Pictures, Spec]]:
    """The metric over a small suite, for a model of discrete tokens and for one of continuous ones, if it has numbers.

    A metric that is unavailable here (weights that are not at hand, too few images) is asked for nothing more.
    """
    config = tiny(component, fields)
    available = []
    for codebook_size in (CODES, None):
        spec = spec_of(config)
        spec = dataclasses.replace(spec, tokens=dataclasses.replace(spec.tokens, codebook_size=codebook_size))
        source = Pictures()
        metric = component.load()(config, source)
        assert isinstance(metric, Metric)
        why = metric.start(spec).unavailable()
        if why is None:
            available.append((metric, source, spec))
        else:
            assert why == " ".join(why.split()) != "", f"why it is unavailable is one sentence, not {why!r}"
    return available


def check_metric_measures(component: Component, fields: Fields) -> None:
    """Its measures can be named before any image is seen, each by one name."""
    metric = component.load()(tiny(component, fields), Pictures())
    names = [measure.name for measure in metric.measures()]
    assert names and len(names) == len(set(names)), f"measures need a name of their own each, not {names}"
    assert all(measure.label for measure in metric.measures())


def check_metric_numbers(component: Component, fields: Fields) -> None:
    """A number for each measure, per-image values one an image, a protocol that is plain data, nothing written to."""
    for metric, source, spec in suites(component, fields):
        tally, batch = metric.start(spec), reconstructions(source, spec)
        measured = {measure.name for measure in metric.measures()}
        for name, values in tally.update(batch).items():
            assert name in measured, f"`update` gives values of {name!r}, which is no measure: {sorted(measured)}"
            assert values.shape == (IMAGES,), f"{name!r} has shape {tuple(values.shape)}; a value an image"
        numbers = tally.compute()
        assert set(numbers) == {measure.name for measure in metric.measures()}, f"`compute` gives {sorted(numbers)}"
        assert all(type(value) is float for value in numbers.values()), f"numbers are plain floats, not {numbers}"
        assert tally.unavailable() is None, "it took part, and then was unavailable"
        json.dumps(dict(tally.protocol()))
        fresh = reconstructions(source, spec)
        for name in ("real", "fake", "exact"):
            assert torch.equal(getattr(batch, name), getattr(fresh, name)), f"`update` wrote into the batch's {name}"
        assert torch.equal(batch.tokens.codes, fresh.tokens.codes), "`update` wrote into the batch's codes"


def check_metric_tallies(component: Component, fields: Fields) -> None:
    """A tally is empty when it starts, and its own: no tally moves another, whether fed or started beside it."""
    for metric, source, spec in suites(component, fields):
        halves = [reconstructions(source, spec, 0, IMAGES // 2), reconstructions(source, spec, IMAGES // 2)]
        alone = []
        for half in halves:
            tally = metric.start(spec)
            tally.update(half)
            alone.append(dict(tally.compute()))
        beside = [metric.start(spec) for _ in halves]
        for tally, half in zip(beside, halves, strict=True):
            tally.update(half)
        metric.start(spec).update(halves[0])
        for tally, expected in zip(beside, alone, strict=True):
            text = "a tally has other numbers beside others than alone; its state must be its own"
            same(dict(tally.compute()), expected, text)


def check_metric_batches(component: Component, fields: Fields) -> None:
    """Numbers depend neither on how images are batched nor on their order."""
    for metric, source, spec in suites(component, fields):
        whole, parts = metric.start(spec), metric.start(spec)
        values = whole.update(reconstructions(source, spec))
        later = parts.update(reconstructions(source, spec, IMAGES // 2))
        first = parts.update(reconstructions(source, spec, 0, IMAGES // 2))
        assert set(first) == set(later) == set(values)
        for name in values:
            close(torch.cat([first[name], later[name]]), values[name])
        same(dict(parts.compute()), dict(whole.compute()))


def check_metric_resumes(component: Component, fields: Fields) -> None:
    """An interrupted tally goes on from what `state` holds, and comes to the same numbers."""
    for metric, source, spec in suites(component, fields):
        halves = [reconstructions(source, spec, 0, IMAGES // 2), reconstructions(source, spec, IMAGES // 2)]
        scratch = Scratch()
        whole, first, second = metric.start(spec), metric.start(spec, scratch), metric.start(spec, scratch)
        for half in halves:
            whole.update(half)
        first.update(halves[0])
        file = io.BytesIO()
        torch.save(dict(first.state()), file)
        file.seek(0)
        second.restore(torch.load(file, weights_only=True))
        second.update(halves[1])
        text = "an interrupted tally ends at other numbers; make all that `update` changes fields of the tally"
        expected = dict(whole.compute())
        same(dict(second.compute()), expected, text)
        assert second.protocol() == whole.protocol(), f"{text}; its protocol is another one too"


def check_metric_joins(component: Component, fields: Fields) -> None:
    """Two processes that share the images come to the numbers of one: the second's tally joins the first's."""
    for metric, source, spec in suites(component, fields):
        halves = [reconstructions(source, spec, 0, IMAGES // 2), reconstructions(source, spec, IMAGES // 2)]
        folders = Scratch()
        whole, tallies = metric.start(spec), [
            metric.start(spec, Scratch(folders.own, folders.common, at)) for at in (0, IMAGES // 2)
        ]  # fmt: skip
        for tally, half in zip(tallies, halves, strict=True):
            whole.update(half)
            tally.update(half)
        tallies[0].join(tallies[1].state())
        text = "joined tallies have other numbers than one of all images; say in `join` how their fields go together"
        same(dict(tallies[0].compute()), dict(whole.compute()), text)


CHECKS: tuple[Check, ...] = (
    check_metric_measures, check_metric_numbers, check_metric_tallies, check_metric_batches, check_metric_resumes,
    check_metric_joins,
)  # fmt: skip
