"""Each model at each token count, on its way through a suite's images; all of it can be put down and taken up again."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexframe.bench.metric import Reconstructions, Tally
from flexframe.bench.protocol import Chain
from flexframe.models.tokenizer import Tokenizer


class Stopwatch:
    """Images a second. The first batch only warms up, unless there is no other."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None
        self.images, self.seconds = 0, 0.0

    def add(self, images: int, seconds: float) -> None:
        if self.first is None:
            self.first = images, seconds
        else:
            self.images, self.seconds = self.images + images, self.seconds + seconds

    def rate(self) -> float:
        images, seconds = (self.images, self.seconds) if self.images else self.first or (0, 0.0)
        return images / max(seconds, 1e-9)

    def state(self) -> dict[str, Any]:
        return {"images": self.images, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on; the next batch warms up again."""
        self.images, self.seconds, self.first = state["images"], state["seconds"], None


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

    def take(self, batch: Reconstructions, show: int) -> None:
        """Measure a batch, and keep its first `show` reconstructions."""
        self.codes.add(batch.tokens.codes)
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
        }

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
        self.watch.restore(state["watch"])


@dataclass
class Entrant:
    """One model, and its lanes."""

    name: str
    model: Tokenizer
    weights: str
    """The hash of its tensors."""
    lanes: Sequence[Lane]
    watch: Stopwatch = field(default_factory=Stopwatch)

    def state(self) -> dict[str, Any]:
        return {"lanes": {str(lane.budget): lane.state() for lane in self.lanes}, "watch": self.watch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for lane in self.lanes:
            lane.restore(state["lanes"][str(lane.budget)])
        self.watch.restore(state["watch"])
