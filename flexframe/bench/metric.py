"""The contract of metrics: numbers over images and what models made of them.

A `Metric` is built once for a suite and holds what all models share; a `Tally` is what one model at one token count
comes to, and the only part that counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, ClassVar, Generic, Literal
from warnings import warn
from weakref import finalize

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import TypeVar

from flexframe.data.source import Source
from flexframe.tokens import Tokens
from flexframe_registry.kinds import MetricConfig
from flexframe_registry.widths import Spec

MetricC = TypeVar("MetricC", bound=MetricConfig, default=MetricConfig)
MetricT = TypeVar("MetricT", bound="Metric[Any]", default="Metric[Any]")


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that a metric gives, and how to show it."""

    name: str
    label: str
    better: Literal["higher", "lower"] | None = None
    """The direction of good, or None for a number that only describes."""
    unit: str = ""
    digits: int = 2
    note: str = ""
    """A warning of what must not be concluded from it, or a remark."""
    repeats: str = ""
    """The measure whose numbers it may have once more; a page and a table show it only where they differ."""
    chance: float | None = None
    """The number that guessing comes to, where there is one."""
    by: str = ""
    """Who measured, where several can: then the end of the label, behind a comma, as in `Shape right, second judge`."""
    who: str = ""
    """What that is and where it comes from, for a reader who has its name."""
    cost: bool = False
    """Whether it is what an image costs, over which a page draws the other numbers, too."""


class Remake(ABC):
    """A model at one token count, for metrics that let it work on: over the images of one batch."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the tokenizer whose tokens they are, which priors know; empty where it has none."""
        return ""

    @abstractmethod
    def encode(self, images: Float[Tensor, "b 3 h w"]) -> Tokens:
        """Tokens of images in [0, 1], as many as the batch's, drawn as these were."""

    @abstractmethod
    def decode(self, tokens: Tokens, draw: int = 0) -> Float[Tensor, "b 3 h w"]:
        """Images of tokens in [0, 1]: by the run's own draws, or by those of the seed so many after it."""


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """A batch of a suite's images, and what a model made of them."""

    real: UInt8[Tensor, "b 3 h w"]
    fake: UInt8[Tensor, "b 3 h w"]
    """The reconstructions as a file would hold them: `exact` rounded to 8 bits."""
    exact: Float[Tensor, "b 3 h w"]
    """The reconstructions in [0, 1] before rounding, so that a number need not jump where a last digit does."""
    labels: Sequence[int | None]
    tokens: Tokens
    attributes: Sequence[Mapping[str, int]] = ()
    """Each image's, as its source knows them; empty where nobody told."""
    remake: Remake | None = None
    """The model that made them; None of samples."""
    form: str | None = None
    """The form of the captions of these images that samples were drawn from; None where there were none."""


class Scratch:
    """Folders for what grows with the number of images and so must not be held in memory; made when first asked for.

    They outlive an interruption of the run, and are gone when it has ended. What is written there is addressed by the
    images' position, so that a batch that is measured again writes the same bytes to the same place.
    """

    def __init__(self, own: Path | None = None, common: Path | None = None, start: int = 0) -> None:
        self._own, self._common = own, common
        self.start = start
        """The position of the tally's first image in the suite: several processes write to the same folders."""

    @property
    def own(self) -> Path:
        """The folder of one model at one budget, common to its metrics."""
        if self._own is None:
            self._own = self._temporary()
        self._own.mkdir(parents=True, exist_ok=True)
        return self._own

    @property
    def common(self) -> Path:
        """The folder of what all models share: what is known of the originals."""
        if self._common is None:
            self._common = self._temporary()
        self._common.mkdir(parents=True, exist_ok=True)
        return self._common

    def _temporary(self) -> Path:
        path = Path(mkdtemp(prefix="flexframe-"))
        finalize(self, rmtree, path, ignore_errors=True)
        return path


class Metric(ABC, Generic[MetricC]):
    """Numbers over images and their reconstructions, built as `(config, source)` over the images of a suite.

    One is built a suite: it holds what all models share (networks, classifiers) and counts nothing. `start` gives the
    tally of one model at one budget.
    """

    of_classes: ClassVar[bool] = False
    """True where it looks at the classes that samples were asked for: of a prior without classes it has no number."""
    of_tokens: ClassVar[bool] = False
    """True where it looks at tokens: of images that come from elsewhere it has no number."""
    tally: ClassVar[type[Tally[Any]]]
    """The class of its tallies."""

    def __init__(self, config: MetricC, source: Source) -> None:
        self.config, self.source = config, source

    def of_samples(self) -> Metric[Any] | None:
        """The metric for what a prior draws: `fake` are samples, `real` the suite's images at the same positions,
        which they were not made from, and `labels` the classes asked for. None where it makes no sense of them, as one
        that compares each image with its own reconstruction."""
        return None

    def start(self, spec: Spec, scratch: Scratch | None = None) -> Tally[Any]:
        """An empty tally for one model of these widths at one budget; without `scratch` it has a temporary one."""
        return self.tally(self, spec, scratch or Scratch())

    @abstractmethod
    def measures(self) -> Sequence[Measure]:
        """The numbers that a tally's `compute` gives, in the order to show them."""

    def unavailable(self, spec: Spec) -> str | None:
        """The reason why it has no numbers for a model of these widths, and how to mend it, or None."""
        return None

    def statistics(self, device: torch.device) -> Mapping[str, Any] | None:
        """Arrays and words by name, of the source's images alone, that a file may keep in order to be this metric's
        reference later; None where it takes no such file. Networks compute on `device`.

        Raises:
            ValueError: its weights cannot be had, or there are too few images.
        """
        return None

    def protocol(self) -> Mapping[str, Any]:
        """Plain data that moves the numbers beyond the images and the config: extractor, weights hash, window."""
        return {}


@dataclass
class Tally(ABC, Generic[MetricT]):
    """The count of one model at one budget, over the images of a suite from the first to the last.

    A subclass is a dataclass, and the fields that it adds are its state, with which an interrupted run goes on:
    numbers, tensors, or lists and mappings of these, constant in the number of images. What grows with them goes into
    `scratch`, where the first image that this tally sees is at `scratch.start`; what depends on `spec` is a
    `field(init=False)` that `__post_init__` makes. Where fields are no sums over images, `join` says how two go
    together.
    """

    metric: MetricT
    spec: Spec
    scratch: Scratch

    def __post_init__(self) -> None:
        """Make the fields that depend on `spec`."""

    @abstractmethod
    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        """Take in a batch; returns per-image values by name, if the metric has any."""

    @abstractmethod
    def compute(self) -> Mapping[str, float]:
        """The numbers over all images so far."""

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """Plain data by number, reported beside its value. Asked after `compute`.

        `subsets` of a number that is no mean of per-image values: `{"size": images in each, "values": [...]}` over
        disjoint parts of the images, the same parts for all models, so that an interval can be shown. `original`: the
        number of the originals themselves, a ceiling. `most`: the highest that so many images could come to. `why`: the
        reason, where it came out as NaN. Other names are the metric's own; see `flexframe.bench.results`.
        """
        return {}

    def unavailable(self) -> str | None:
        """The reason why there are no numbers, and how to mend it, or None. Asked before the first batch and at the
        end; the metric's own reason unless a tally finds another one in the images."""
        return self.metric.unavailable(self.spec)

    def protocol(self) -> Mapping[str, Any]:
        """The metric's protocol, and what the images told. Asked at the end."""
        return self.metric.protocol()

    def state(self) -> dict[str, Any]:
        """The tally so far, as plain data and tensors.

        Raises:
            TypeError: an attribute that is no field, so that it would be lost.
        """
        names = {each.name for each in fields(self)}
        stray = sorted(vars(self).keys() - names)
        if stray:
            told = f"{type(self).__name__} has {', '.join(stray)}, which an interrupted run would lose"
            raise TypeError(f"{told}; declare it as a field of the dataclass, or keep it in the metric")
        return {name: getattr(self, name) for name in sorted(names - COMMON)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same metric, model and budget.

        Raises:
            KeyError: the state lacks a field.
        """
        for each in fields(self):
            if each.name not in COMMON:
                setattr(self, each.name, state[each.name])

    def join(self, state: Mapping[str, Any]) -> None:
        """Take in the `state` of a tally of the same metric, model and budget over the images behind this one's: fields
        are added, truths hold where both do, and mappings go entry by entry."""
        for name, value in self.state().items():
            setattr(self, name, added(value, state[name], name))


def added(first: Any, later: Any, name: str) -> Any:
    """Two values of a tally's field over disjoint images as one over all of them; an empty text is of no image.

    Raises:
        TypeError: there is no sum of such values, as of lists, which may be by image or by anything else.
    """
    if isinstance(first, bool):
        return first and later
    if isinstance(first, Tensor | int | float):
        return first + later
    if isinstance(first, Mapping):
        both = {key: added(value, later[key], f"{name}.{key}") for key, value in first.items() if key in later}
        return {**first, **later, **both}
    if isinstance(first, str) and (first == later or "" in (first, later)):
        return first or later
    told = f"{name} is of {type(first).__name__}, which has no sum" if not isinstance(first, str) else f"{name} differs"
    raise TypeError(f"{told}; let the tally's `join` say how two go together")


COMMON = {each.name for each in fields(Tally)}
"""Fields that all tallies have, which are no state."""


class LegacyMetric(Metric[MetricC]):
    """A metric that is its own tally, as the contract was before tallies had a class of their own.

    `start` copies it; `reset` empties the copy, `update` and `compute` count in it, and `tallied` names the attributes
    that they change. It works for one more minor version.
    """

    scratch: Scratch

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        told = (
            f"{cls.__module__}.{cls.__qualname__} counts in copies of itself, and that ends with the next minor version"
        )
        warn(f"{told}; let it give a flexframe.bench.metric.Tally", DeprecationWarning, stacklevel=2)

    @property
    @abstractmethod
    def tallied(self) -> tuple[str, ...]:
        """Names of the attributes that `reset` makes and `update` changes."""

    @abstractmethod
    def reset(self, spec: Spec) -> None:
        """Make this an empty tally of a model with these widths."""

    @abstractmethod
    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        """Take in a batch; returns per-image values by name, if the metric has any."""

    @abstractmethod
    def compute(self) -> Mapping[str, float]:
        """The numbers over all images so far."""

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        """Plain data by number, reported beside its value."""
        return {}

    def unavailable(self, spec: Spec | None = None) -> str | None:
        """The reason why this tally has no numbers, and how to mend it, or None."""
        return None

    def state(self) -> Mapping[str, Any]:
        """The tally so far, as plain data and tensors."""
        return {name: getattr(self, name) for name in self.tallied}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same metric, model and budget."""
        for name in self.tallied:
            setattr(self, name, state[name])

    def start(self, spec: Spec, scratch: Scratch | None = None) -> Tally[Any]:
        """An empty copy, as a tally."""
        return _Copied(self, spec, scratch or Scratch())


@dataclass
class _Copied(Tally[LegacyMetric[Any]]):
    """The tally that a copy of a metric is."""

    own: LegacyMetric[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.own = copy(self.metric)
        self.own.scratch = self.scratch
        self.own.reset(self.spec)

    def update(self, batch: Reconstructions) -> Mapping[str, Float[Tensor, " b"]]:
        return self.own.update(batch)

    def compute(self) -> Mapping[str, float]:
        return self.own.compute()

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        return self.own.details()

    def unavailable(self) -> str | None:
        return self.own.unavailable()

    def protocol(self) -> Mapping[str, Any]:
        return self.own.protocol()

    def join(self, state: Mapping[str, Any]) -> None:
        raise TypeError(f"{type(self.own).__name__} counts in copies of itself; measure it in one process")

    def state(self) -> dict[str, Any]:
        return dict(self.own.state())

    def restore(self, state: Mapping[str, Any]) -> None:
        self.own.restore(state)
