"""The contract of metrics: numbers over images and what models made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, ClassVar, Generic, Literal
from weakref import finalize

from jaxtyping import Float, UInt8
from torch import Tensor
from typing_extensions import TypeVar

from flexframe.data.source import Source
from flexframe.tokens import Tokens
from flexframe_registry.kinds import MetricConfig, Spec

MetricC = TypeVar("MetricC", bound=MetricConfig, default=MetricConfig)


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
    """What must not be concluded from it."""


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """A batch of a suite's images, and what a model made of them."""

    real: UInt8[Tensor, "b 3 h w"]
    fake: UInt8[Tensor, "b 3 h w"]
    """What a file would hold: `exact` rounded to 8 bits."""
    exact: Float[Tensor, "b 3 h w"]
    """The reconstructions in [0, 1] before rounding, so that a number need not jump where a last digit does."""
    labels: Sequence[int | None]
    tokens: Tokens
    attributes: Sequence[Mapping[str, int]] = ()
    """Each image's, as its source knows them; empty where nobody told."""


class Scratch:
    """Folders for what grows with the number of images and so must not be held in memory; made when first asked for.

    They outlive an interruption of the run, and are gone when it has ended. What is written there is addressed by the
    images' position, so that a batch that is measured again writes the same bytes to the same place.
    """

    def __init__(self, own: Path | None = None, common: Path | None = None) -> None:
        self._own, self._common = own, common

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

    One is built a suite: it holds what all models share (networks, classifiers). `start` gives the tally of one model
    at one budget, whose state is constant in the number of images; what cannot be goes into its `scratch`. Tallies
    see the images of `source` from the first to the last, all the same ones.
    """

    scratch: Scratch
    of_classes: ClassVar[bool] = False
    """Whether it looks at the classes that samples were asked for: of a prior without classes it has no number."""

    def __init__(self, config: MetricC, source: Source) -> None:
        self.config, self.source = config, source

    def of_samples(self) -> Metric | None:
        """This metric as it is of what a prior draws: `fake` are samples, `real` the suite's images at the same
        positions, which they were not made from, and `labels` the classes asked for. None where it makes no sense of
        them, as one that compares each image with its own reconstruction."""
        return None

    def start(self, spec: Spec, scratch: Scratch | None = None) -> Metric:
        """An empty tally for one model at one budget; without `scratch` it has a temporary one."""
        tally = copy(self)
        tally.scratch = scratch or Scratch()
        tally.reset(spec)
        return tally

    @property
    @abstractmethod
    def tallied(self) -> tuple[str, ...]:
        """Names of the attributes that `reset` makes and `update` changes; a class may set it as a plain attribute.

        They are numbers, tensors, or lists and mappings of these: with them an interrupted run goes on.
        """

    def state(self) -> Mapping[str, Any]:
        """The tally so far, as plain data and tensors."""
        return {name: getattr(self, name) for name in self.tallied}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same metric, model and budget."""
        for name in self.tallied:
            setattr(self, name, state[name])

    @abstractmethod
    def measures(self) -> Sequence[Measure]:
        """The numbers that `compute` gives, in the order to show them."""

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
        """By number, plain data that is reported beside its value. Asked after `compute`.

        `subsets` of a number that is no mean of per-image values: `{"size": images in each, "values": [...]}` over
        disjoint parts of the images, the same parts for all models, so that an interval can be shown. Other names are
        the metric's own; see `flexframe.bench.results`.
        """
        return {}

    def unavailable(self) -> str | None:
        """Why this tally has no numbers, and how to mend it, or None. Asked before the first batch and at the end."""
        return None

    def protocol(self) -> Mapping[str, Any]:
        """What moves the numbers beyond the images: extractor, weights hash, layer, window. Asked at the end."""
        return {}
