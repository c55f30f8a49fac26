"""A benchmark tried on a few images: what it measures, what is missing, and how long all of it would take here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from flexframe.bench.metric import Scratch
from flexframe.bench.passes import Head, Pass, lane
from flexframe.bench.runner import common_size
from flexframe.bench.task import Task
from flexframe_registry import SuiteConfig, catalogue

FEW = 8
"""Images of a try, twice: the first ones warm up."""


@dataclass(frozen=True)
class Rehearsal:
    """Facts of what a benchmark would do."""

    images: int
    size: tuple[int, int]
    budgets: Mapping[str, Sequence[int]]
    measured: Sequence[str]
    """Labels of the numbers that would be there."""
    missing: Mapping[str, Sequence[str]]
    """Labels of numbers that would not, by the reason and the remedy."""
    seconds: float
    """For all images, from the time of a few."""
    tried: int

    def lines(self) -> Iterator[str]:
        """Sentences that tell all of it."""
        height, width = self.size
        yield f"{self.images:,} images of {height} x {width} pixels"
        for name, budgets in self.budgets.items():
            yield f"{name}: at {', '.join(map(str, budgets)) or 'no'} tokens"
        yield f"measured: {', '.join(self.measured) or 'nothing'}"
        for why, labels in self.missing.items():
            yield f"missing: {', '.join(labels)}. {why}"
        yield f"about {_time(self.seconds)} here, from the time of {self.tried} images; memory does not grow with them"


def rehearse(task: Task, suite: SuiteConfig, *, batch_size: int = 64, device: str | torch.device = "cpu") -> Rehearsal:
    """Try a task on a few images of a suite, and write nothing.

    Raises:
        ConfigError: what keeps it from being measured at all, as a source that is not there.
    """
    device = torch.device(device)
    size, budgets = common_size(task.sizes()), task.budgets(suite)
    entrants = task.entrants(device)
    source = Head(catalogue().build(suite.data, size, place="data"), suite.count)
    task.see(source)
    metrics = task.metrics([catalogue().build(config, source) for config in suite.metrics])
    for each in entrants:
        each.lanes = [lane(each, k, metrics, source, Scratch()) for k in budgets[each.name]]
    few = max(1, min(FEW, batch_size, len(source) // 2))
    walk = Pass(source, entrants, suite.model_copy(update={"show": 0}), few, device, None)
    walk.measure(range(few))
    started = perf_counter()
    walk.measure(range(few, min(2 * few, len(source))))
    each_one = (perf_counter() - started) / max(1, min(few, len(source) - few))
    there, missing = dict[str, None](), dict[str, dict[str, None]]()
    for entrant in entrants:
        for one in entrant.lanes:
            for tally, refused in one.tallies:
                why = refused or tally.unavailable()
                for measure in tally.metric.measures():
                    held = there if why is None else missing.setdefault(why, {})
                    held[measure.label] = None
    lacking = {why: list(labels) for why, labels in missing.items()}
    return Rehearsal(len(source), size, budgets, list(there), lacking, each_one * len(source), few)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.0f} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"
