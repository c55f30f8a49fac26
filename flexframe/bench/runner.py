"""One pass over a suite's images: every model, at every token count it supports, on the same images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as partial_function
from pathlib import Path, PurePath
from time import monotonic, perf_counter
from typing import Any

import torch
from jaxtyping import UInt8
from rich.progress import Progress
from torch import Tensor

from flexframe.bench import extremes, protocol, results
from flexframe.bench.lanes import Entrant, Lane
from flexframe.bench.metric import Measure, Metric, Reconstructions
from flexframe.bench.partial import Partial
from flexframe.data.source import AttributeClassifier, Sample, Source
from flexframe.models.fingerprint import weights
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_registry import ConfigError, SuiteConfig, catalogue, manager

Models = Sequence[tuple[str, Tokenizer]]
SAVE_SECONDS = 20.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gallery:
    """The first images of a suite, and each model's reconstructions of them by token count. All 8-bit, on the CPU."""

    real: UInt8[Tensor, "n 3 h w"]
    fake: Mapping[str, Mapping[int, Tensor]]
    numbers: Sequence[int] = ()
    """Each image's position in the suite; empty: 0, 1, 2, ..."""
    further: Gallery | None = None
    """Each model's best and worst images, where they are not among these."""


@dataclass(frozen=True)
class Report:
    """What a run gives: `results` is the content of results.json (`flexframe.bench.results`)."""

    results: Mapping[str, Any]
    images: Gallery
    out: Path
    remarks: Sequence[str] = ()
    """What a user must know of the suite's images."""


class Head(Source):
    """The first images of a source."""

    def __init__(self, source: Source, count: int | None) -> None:
        super().__init__(source.config, source.size)
        if count is not None and count > len(source):
            raise ValueError(f"the suite wants {count} images and the source has {len(source)}; lower `count`")
        self.source, self.count = source, len(source) if count is None else count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.source[index]

    def samples(self, indices: Sequence[int]) -> Sequence[Sample]:
        return self.source.samples(indices)

    def class_names(self) -> Sequence[str]:
        return self.source.class_names()

    def classifier(self) -> AttributeClassifier | None:
        return self.source.classifier()

    def protocol(self) -> Mapping[str, Any]:
        return self.source.protocol()

    def remarks(self) -> Sequence[str]:
        return self.source.remarks()


def run(
    suite: SuiteConfig,
    models: Models,
    out: Path,
    *,
    name: str = "suite",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Report:
    """Measure `models` and write `out/results.json`. Leaves the models on `device`, in evaluation mode.

    Numbers do not depend on `batch_size`: each image draws by its own index. Interrupted, the same call goes on from
    what `out/partial` holds, and gives the same numbers.

    Args:
        models: pairs of a display name and a tokenizer; all must have one image size.
        name: the suite's name, for the page.
        progress: a running rich progress display to add a bar to.
        save_seconds: after how long the state is saved, at the end of a batch.

    Raises:
        ValueError: models that cannot be compared or are not offered at any token count asked for, a suite that wants
            more images than there are, or another benchmark in `out`, finished or interrupted.
    """
    device = torch.device(device)
    size = common_size(models)
    _check_budgets(suite, models)
    hashes = {model_name: weights(model.to(device).eval()) for model_name, model in models}
    results.refuse_others(out / results.FILE, suite, {n: results.identity(model, hashes[n]) for n, model in models})
    source = Head(catalogue().build(suite.data, size), suite.count)
    metrics: list[Metric] = [catalogue().build(config, source) for config in suite.metrics]
    measures = measures_of(metrics)
    partial = Partial(out, rests_on(suite, source, metrics, models, hashes, device))
    state = partial.read()
    entrants = [
        Entrant(model_name, model, hashes[model_name], _lanes(i, model, suite, metrics, partial))
        for i, (model_name, model) in enumerate(models)
    ]
    walk = Pass(source, entrants, suite, batch_size, device, progress)
    if state is not None:
        walk.restore(state)
    walk.run(partial, save_seconds)
    found = results.assemble(name, suite, source, entrants, measures, walk.seen(), device)
    out.mkdir(parents=True, exist_ok=True)
    results.write(found, out / results.FILE)
    partial.drop()
    report = Report(found, _gallery(walk, found), out, source.remarks())
    manager().hook.flexframe_report(report=report)
    return report


def common_size(models: Models) -> tuple[int, int]:
    if not models:
        raise ValueError("nothing to measure: name at least one model")
    names = [name for name, _ in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice; each model needs a name of its own")
    sizes = {name: tuple(model.config.image_size) for name, model in models}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {h} x {w}" for name, (h, w) in sizes.items())
        raise ValueError(f"models of different image sizes do not compare: {told}; measure them apart")
    height, width = next(iter(sizes.values()))
    return height, width


def _check_budgets(suite: SuiteConfig, models: Models) -> None:
    """Some model must be offered at a token count that the suite asks for."""
    own = {name: model.config.budgets for name, model in models}
    if suite.budgets is None or not own or any(set(suite.budgets) & set(budgets) for budgets in own.values()):
        return
    told = "; ".join(f"{name} is at {_counts(budgets)}" for name, budgets in own.items())
    asked = ", ".join(map(str, suite.budgets))
    raise ConfigError.at("budgets", f"no model is offered at {asked} tokens: {told}; ask for some of these")


def _counts(budgets: Sequence[int]) -> str:
    """Token counts, rising; many in a row as their ends."""
    whole = len(budgets) > 4 and list(budgets) == list(range(budgets[0], budgets[-1] + 1))
    return f"{budgets[0]}..{budgets[-1]}" if whole else ", ".join(map(str, budgets))


def measures_of(metrics: Sequence[Metric]) -> dict[str, Measure]:
    found: dict[str, Measure] = {}
    for metric in metrics:
        for measure in metric.measures():
            if measure.name in found:
                raise ValueError(f"two metrics of the suite both give {measure.name!r}; keep one")
            found[measure.name] = measure
    return found


def rests_on(
    suite: SuiteConfig,
    source: Source,
    metrics: Sequence[Metric],
    models: Models,
    hashes: Mapping[str, str],
    device: torch.device,
) -> dict[str, Any]:
    """What decides the numbers, as far as it is known before the images are: the rest of a run must agree in it."""
    # a model's widths do not move what a metric says of itself
    tallies = [metric.start(models[0][1].config.spec) for metric in metrics]
    for tally in tallies:
        tally.unavailable()  # loads its weights, so that their hashes are known
    return {
        "suite": suite.model_dump(mode="json", exclude={"note", "seed"}),  # the seed is in how models are used
        "images": {"count": len(source), **source.protocol()},
        "metrics": [dict(tally.protocol()) for tally in tallies],
        "models": {name: {**results.used(model, suite, device), "weights": hashes[name]} for name, model in models},
        "configs": {name: model.config.model_dump(mode="json") for name, model in models},
        "versions": protocol.versions(),
    }


def _lanes(
    number: int,
    model: Tokenizer,
    suite: SuiteConfig,
    metrics: Sequence[Metric],
    partial: Partial,
) -> list[Lane]:
    lanes = []
    for budget in model.config.budgets:
        if suite.budgets is None or budget in suite.budgets:
            scratch = partial.scratch(number, budget)
            tallies = [metric.start(model.config.spec, scratch) for metric in metrics]
            lanes.append(Lane(budget, [(tally, tally.unavailable()) for tally in tallies]))
    return lanes


class Pass:
    """The way through the images, from `done` on."""

    def __init__(
        self,
        source: Source,
        entrants: Sequence[Entrant],
        suite: SuiteConfig,
        batch_size: int,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.source, self.entrants, self.suite, self.size = source, entrants, suite, batch_size
        self.device, self.progress = device, progress
        self.done, self.digest = 0, protocol.Digest()
        self.labels: Counter[int | None] = Counter()
        self.suffixes: Counter[str] = Counter()
        self.ids: list[str] = []
        self.shown: list[Tensor] = []

    def seen(self) -> results.Seen:
        return results.Seen(self.digest.hex(), self.labels, self.suffixes, self.ids)

    def run(self, partial: Partial, save_seconds: float) -> None:
        """Measure all images that are not `done`."""
        lanes, count = sum(len(entrant.lanes) for entrant in self.entrants), len(self.source)
        task = None
        if self.progress is not None:
            task = self.progress.add_task("measuring", total=lanes * count, completed=lanes * self.done)
        saved = monotonic()
        for start in range(self.done, count, self.size):
            self._batch(range(start, min(start + self.size, count)), task)
            if monotonic() - saved >= save_seconds and self.done < count:
                partial.write(self.state())
                saved = monotonic()

    def state(self) -> dict[str, Any]:
        models = {entrant.name: entrant.state() for entrant in self.entrants}
        return {"done": self.done, "data_sha256": self.digest.hex(), "models": models}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`: the originals so far are read again, for they must be the same.

        Raises:
            ValueError: they are not, or the state is of other metrics.
        """
        for start in range(0, state["done"], self.size):
            self._read(range(start, min(start + self.size, state["done"])))
        if self.digest.hex() != state["data_sha256"]:
            told = f"the suite's first {state['done']:,} images are others than when the run was interrupted"
            raise ValueError(f"{told}; give another folder by -o, or delete its `partial` to begin anew")
        for entrant in self.entrants:
            entrant.restore(state["models"][entrant.name])
        self.done = state["done"]
        _tell(f"going on with an interrupted run at image {self.done + 1:,} of {len(self.source):,}", self.progress)

    def _read(self, index: range) -> tuple[Tensor, Sequence[Sample]]:
        samples = self.source.samples(index)
        images = torch.stack([sample.image for sample in samples])
        self.digest.add(images)
        self.labels.update(sample.label for sample in samples)
        self.suffixes.update(PurePath(sample.id).suffix.lower() for sample in samples)
        show = self._show(index)
        self.shown.append(images[:show].clone())  # a view, even an empty one, would hold the batch
        self.ids += [sample.id for sample in samples[:show]]
        return images, samples

    def _show(self, index: range) -> int:
        return max(0, min(self.suite.show - index[0], len(index)))

    def _batch(self, index: range, task: Any) -> None:
        images, samples = self._read(index)
        labels, attributes = [s.label for s in samples], [s.attributes for s in samples]
        real, rng = images.to(self.device), Rng(self.suite.seed, torch.tensor(index, device=self.device))
        for entrant in self.entrants:
            started = now(self.device)
            tokens = entrant.model.encode(real.float() / 255, rng=rng)
            entrant.watch.add(len(index), now(self.device) - started)
            for lane in entrant.lanes:
                short = tokens.truncate(lane.budget)
                started = now(self.device)
                fake = entrant.model.decode(short, rng=rng)
                lane.watch.add(len(index), now(self.device) - started)
                fake8 = protocol.to_uint8(fake, self.suite.rounding)
                lane.take(Reconstructions(real, fake8, fake, labels, short, attributes), self._show(index))
                if self.progress is not None and task is not None:
                    told = f"{entrant.name}, {lane.budget} tokens"
                    self.progress.update(task, advance=len(index), description=told)
        self.done = index[-1] + 1


def _tell(text: str, progress: Progress | None) -> None:
    if progress is not None:
        progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        log.warning(text)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def _gallery(walk: Pass, found: Mapping[str, Any]) -> Gallery:
    fake = {e.name: {lane.budget: torch.cat(lane.shown) for lane in e.lanes} for e in walk.entrants}
    return Gallery(torch.cat(walk.shown), fake, further=_further(walk, found))


def _further(walk: Pass, found: Mapping[str, Any]) -> Gallery | None:
    """The best and worst images that `suite.show` does not show anyhow; none where the page shows no images."""
    suite = walk.suite
    wanted = [i for i in extremes.positions(found) if i >= suite.show]
    if not suite.show or not wanted:
        return None
    models = {entrant.name: (entrant.model, [lane.budget for lane in entrant.lanes]) for entrant in walk.entrants}
    rounded = partial_function(protocol.to_uint8, rounding=suite.rounding)
    made = extremes.rebuild(walk.source, models, wanted, seed=suite.seed, device=walk.device, rounded=rounded)
    return Gallery(*made, numbers=wanted)
