"""Each model at each token count, on its way through a suite's images; all of it can be put down and taken up again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from flexframe.bench.metric import Reconstructions, Remake, Tally
from flexframe.bench.protocol import Chain
from flexframe.data.source import Sample, Source
from flexframe.rng import Rng
from flexframe.tokens import Tokens
from flexframe_registry import Spec, SuiteConfig
from flexframe_registry.models import ModelConfig


class Stopwatch:
    """Images a second. The first batch only warms up, unless there is no other."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.images, self.seconds = 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        """Count so many images that took so many seconds."""
        if self.first is None:
            self.first = images, seconds
        else:
            self.images, self.seconds = self.images + images, self.seconds + seconds

    @contextmanager
    def running(self, images: int, device: torch.device) -> Iterator[None]:
        """A block that makes so many images on a device."""
        started = _now(device)
        yield
        self.add(images, _now(device) - started)

    def rate(self) -> float:
        """Images a second; 0 before the first."""
        images, seconds = (self.images, self.seconds) if self.images else self.first or (0, 0.0)
        return images / max(seconds, 1e-9)

    def state(self) -> dict[str, Any]:
        """The count so far, as plain data."""
        return {"images": self.images, "seconds": self.seconds}

    def join(self, state: Mapping[str, Any]) -> None:
        """Take in the count of another process: the rate is then that of one of them on average."""
        self.images, self.seconds = self.images + state["images"], self.seconds + state["seconds"]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on; the next batch warms up again."""
        self.images, self.seconds, self.first = state["images"], state["seconds"], None


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


@dataclass
class Lane:
    """One model at one token count."""

    budget: int
    tallies: list[tuple[Tally, str | None]]
    """Each metric's tally, and why it takes no part, if it does not."""
    per_image: dict[str, array[float]] = field(default_factory=dict)
    codes: Chain = field(default_factory=Chain)
    shown: list[Tensor] = field(default_factory=list)
    watch: Stopwatch = field(default_factory=Stopwatch)
    rows: list[Tensor] | None = None
    """The codes themselves, where this is a part of a suite behind the first: their hash follows from all before."""

    def take(self, batch: Reconstructions, show: int) -> None:
        """Measure a batch, and keep its first `show` reconstructions."""
        self.codes.add(batch.tokens.codes)
        if self.rows is not None:
            self.rows.append(batch.tokens.codes.cpu())
        self.shown.append(batch.fake[:show].cpu().clone())  # a view, even an empty one, would hold the batch
        for tally, why in self.tallies:
            if why is None:
                for name, values in tally.update(batch).items():
                    self.per_image.setdefault(name, array("d")).extend(values.double().tolist())

    def state(self) -> dict[str, Any]:
        """All but the tallies that take no part."""
        return {
            "tallies": {str(i): tally.state() for i, (tally, why) in enumerate(self.tallies) if why is None},
            "per_image": {name: torch.tensor(values, dtype=torch.float64) for name, values in self.per_image.items()},
            "codes": self.codes.link,
            "shown": torch.cat(self.shown) if self.shown else None,
            "watch": self.watch.state(),
            **({} if self.rows is None else {"rows": torch.cat(self.rows)}),
        }

    def join(self, state: Mapping[str, Any]) -> None:
        """Take in the `state` of the same lane over the images behind this one's.

        Raises:
            KeyError: other metrics took part there.
        """
        if {str(i) for i, (_, why) in enumerate(self.tallies) if why is None} != set(state["tallies"]):
            raise KeyError("other metrics take part")
        for i, tally in state["tallies"].items():
            self.tallies[int(i)][0].join(tally)
        for name, values in state["per_image"].items():
            self.per_image.setdefault(name, array("d")).extend(values.tolist())
        self.codes.add(state["rows"])
        self.shown += [] if state["shown"] is None else [state["shown"]]
        self.watch.join(state["watch"])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`.

        Raises:
            KeyError: a metric that took part then and does not now, or the other way round.
        """
        taking = {str(i) for i, (_, why) in enumerate(self.tallies) if why is None}
        if taking != set(state["tallies"]):
            raise KeyError("other metrics take part")
        self.codes = Chain(state["codes"])
        for i, tally in state["tallies"].items():
            self.tallies[int(i)][0].restore(tally)
        self.per_image = {name: array("d", values.tolist()) for name, values in state["per_image"].items()}
        self.shown = [] if state["shown"] is None else [state["shown"]]
        self.rows = [state["rows"]] if "rows" in state else None
        self.watch.restore(state["watch"])


@dataclass(frozen=True, slots=True)
class Some:
    """Some of a suite's images, on the device of the models."""

    index: range
    """Their positions in the suite."""
    real: UInt8[Tensor, "b 3 h w"]
    samples: Sequence[Sample]
    """Their samples, with all that the source knows of them."""
    rng: Rng
    """The draws of these positions."""


@dataclass(frozen=True, slots=True)
class Made:
    """The images that a model made at one token count, one beside each of `Some`."""

    lane: Lane
    images: Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]
    """In [0, 1]; or of 8 bits, where they come from files."""
    tokens: Tokens
    labels: Sequence[int | None]
    attributes: Sequence[Mapping[str, int]] = ()
    remake: Remake | None = None
    form: str | None = None
    """The form of the captions that they were drawn from."""


@dataclass
class Entrant(ABC):
    """One model, how it makes images, and its lanes."""

    name: str
    weights: str
    """The hash of the measured model's tensors, or of its images where these are all that is known of it."""
    lanes: Sequence[Lane] = field(default_factory=list, kw_only=True)
    watch: Stopwatch = field(default_factory=Stopwatch, kw_only=True)

    @property
    @abstractmethod
    def config(self) -> ModelConfig | None:
        """The config of the model that is measured; None where it is not known."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The widths of what decodes."""

    @property
    @abstractmethod
    def bits(self) -> float | None:
        """Bits of a token, or None where tokens are continuous or not known."""

    @abstractmethod
    def make(self, some: Some) -> Iterator[Made]:
        """Make images beside some of the suite's, lane after lane."""

    @abstractmethod
    def used(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        """The use of the model: what moves its images beside its weights."""

    @abstractmethod
    def identity(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        """The model's identity and how it samples, as `models.NAME` of results.json says it."""

    @abstractmethod
    def entry(self, suite: SuiteConfig, device: torch.device) -> dict[str, Any]:
        """All of `models.NAME` but the budgets."""

    def unasked(self, source: Source) -> str | None:
        """The reason why metrics of the classes asked for have no number over a source's images, or None."""
        return None

    def tokenless(self) -> str | None:
        """The reason why metrics of tokens have no number, or None."""
        return None

    def state(self) -> dict[str, Any]:
        """The lanes so far, as plain data and tensors."""
        return {"lanes": {str(lane.budget): lane.state() for lane in self.lanes}, "watch": self.watch.state()}

    def join(self, state: Mapping[str, Any]) -> None:
        """Take in a `state` over the images behind these."""
        for lane in self.lanes:
            lane.join(state["lanes"][str(lane.budget)])
        self.watch.join(state["watch"])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        for lane in self.lanes:
            lane.restore(state["lanes"][str(lane.budget)])
        self.watch.restore(state["watch"])
