"""One pass over a suite's images: what every model makes, at every token count it supports, beside the same images."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from time import monotonic
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from flexframe.bench import growth, protocol, results
from flexframe.bench.gallery import Gallery, Report
from flexframe.bench.lanes import Entrant, Lane, Some
from flexframe.bench.metric import Measure, Metric, Reconstructions, Scratch
from flexframe.bench.partial import Partial
from flexframe.bench.reconstructions import Reconstruct
from flexframe.bench.task import Task
from flexframe.data.source import AttributeClassifier, CaptionReader, Sample, Source
from flexframe.files import drop_parts, see_writable
from flexframe.lock import writes
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe_registry import SuiteConfig, catalogue, manager

Models = Sequence[tuple[str, Tokenizer]]
SAVE_SECONDS = 20.0
log = logging.getLogger(__name__)


class Head(Source):
    """The first images of a source.

    Raises:
        ValueError: there are fewer.
    """

    def __init__(self, source: Source, count: int | None) -> None:
        super().__init__(source.config, source.size)
        source.want("any")  # a label that cannot be read keeps no picture from being measured
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

    def second_classifier(self) -> AttributeClassifier | None:
        return self.source.second_classifier()

    def read_captions(self, indices: Sequence[int]) -> Sequence[Mapping[str, str]]:
        return self.source.read_captions(indices)

    def caption_reader(self) -> CaptionReader | None:
        return self.source.caption_reader()

    def protocol(self) -> Mapping[str, Any]:
        return self.source.protocol()

    def remarks(self) -> Sequence[str]:
        return self.source.remarks()


@writes("out")
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
    """Measure how models rebuild a suite's images: `measure`, of the task `Reconstruct`.

    Args:
        models: pairs of a display name and a tokenizer; all must have one image size.
    """
    return measure(
        Reconstruct(models), suite, out, name=name, batch_size=batch_size, device=device, progress=progress,
        save_seconds=save_seconds,
    )  # fmt: skip


def measure(
    task: Task,
    suite: SuiteConfig,
    out: Path,
    *,
    name: str = "suite",
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
    save_seconds: float = SAVE_SECONDS,
) -> Report:
    """Measure what a task's models make and write `out/results.json`. Leaves them on `device`, in evaluation mode.

    Numbers do not depend on `batch_size`: each image draws by its own index. Interrupted, the same call goes on from
    what `out/partial` holds, and gives the same numbers. Models that stand in `out/results.json` already, of the same
    suite and protocol, stay there and are not measured again.

    Args:
        name: the suite's name, for the page.
        progress: a running rich progress display to add a bar to.
        save_seconds: after how long the state is saved, at the end of a batch.

    Raises:
        ConfigError: models that are not offered at any token count asked for, metrics that make no sense of the task,
            or a benchmark of another suite, protocol or of other models of these names in `out`, finished or
            interrupted.
        ValueError: models that cannot be compared, or a suite that wants more images than there are.
    """
    device = torch.device(device)
    size, budgets = common_size(task.sizes()), task.budgets(suite)
    entrants, path = task.entrants(device), out / results.FILE
    held = growth.standing(path, suite, {each.name: each.identity(suite, device) for each in entrants})
    source = Head(catalogue().build(suite.data, size, place="data"), suite.count)
    task.see(source)
    metrics = task.metrics([catalogue().build(config, source) for config in suite.metrics])
    measures = measures_of(metrics)
    drop_parts(path)
    for each in entrants:
        each.lanes = [lane(each, k, metrics, source, Scratch()) for k in budgets[each.name]]
    new = growth.to_measure(held, results.facts(suite, source, task.record), entrants, path)
    see_writable(path)
    if held is not None and (stay := growth.staying(held, new)):
        growth.see_images(held, source, path)
        told = f"{', '.join(stay)}: measured on {held['manifest']['date'][:10]}, and not again"
        _tell(f"{told}; delete {path} to measure anew", progress)
    walk = Pass(source, new, suite, batch_size, device, progress)
    if new or held is None:
        partial = Partial(out, rests_on(task, suite, source, metrics, new, device))
        state = partial.read()
        for number, each in enumerate(new):
            each.lanes = [lane(each, k, metrics, source, partial.scratch(number, k)) for k in budgets[each.name]]
        if state is not None:
            walk.restore(state)
        walk.run(partial, save_seconds)
        content = results.assemble(name, suite, source, new, measures, walk.seen(), device, task.record)
        content = growth.grown(held, content)
        results.write(content, path)
        partial.drop()
    else:
        first = source.samples(range(min(suite.show, len(source))))
        content = {**held, "suite": results.named(name, suite), "shown": [sample.id for sample in first]}
        results.write(content, path)
    pictures = gallery(task, suite, source, entrants, walk, content)
    report = Report(content, pictures, out, source.remarks())
    task.finish(report, entrants)
    manager().observe("flexframe_report", set(), report=report)
    return report


def gallery(
    task: Task, suite: SuiteConfig, source: Source, entrants: Sequence[Entrant], walk: Pass, content: Mapping[str, Any]
) -> Gallery:
    """Pictures of all models that are here; those that were not measured now make theirs once more."""
    device, real = walk.device, torch.zeros(0, 3, *source.size, dtype=torch.uint8)
    first = range(min(suite.show, len(source)))
    if first:
        real = torch.cat(walk.shown or [torch.stack([sample.image for sample in source.samples(first)])])
    fake: dict[str, Mapping[int, Tensor]]
    fake = {each.name: {lane.budget: torch.cat(lane.shown) for lane in each.lanes} for each in walk.entrants}
    fake |= task.pictures(suite, source, [each for each in entrants if each.name not in fake], device)
    own = {name: fake[name] for name in content["models"] if name in fake}
    return Gallery(real, own, further=task.further(suite, source, entrants, device, content))


def common_size(models: Sequence[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    """The image size that models have in common: height and width in pixels.

    Args:
        models: pairs of a display name and a size.

    Raises:
        ValueError: there are no models, two have one name, or their image sizes differ.
    """
    if not models:
        raise ValueError("nothing to measure: name at least one model")
    names = [name for name, _ in models]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice; each model needs a name of its own")
    if len({tuple(size) for _, size in models}) > 1:
        told = ", ".join(f"{name} {h} x {w}" for name, (h, w) in models)
        raise ValueError(f"models of different image sizes do not compare: {told}; measure them apart")
    height, width = models[0][1]
    return height, width


def measures_of(metrics: Sequence[Metric[Any]]) -> dict[str, Measure]:
    """The numbers that metrics give, by name.

    Raises:
        ValueError: two give a number of one name.
    """
    measures: dict[str, Measure] = {}
    for metric in metrics:
        for measure in metric.measures():
            if measure.name in measures:
                raise ValueError(f"two metrics of the suite both give {measure.name!r}; keep one")
            measures[measure.name] = measure
    return measures


def rests_on(
    task: Task,
    suite: SuiteConfig,
    source: Source,
    metrics: Sequence[Metric[Any]],
    entrants: Sequence[Entrant],
    device: torch.device,
) -> dict[str, Any]:
    """All that decides the numbers, as far as it is known before the images are: the rest of a run must agree in it."""
    # a model's widths do not move what a metric says of itself
    tallies = [metric.start(entrants[0].spec) for metric in metrics]
    for tally in tallies:
        tally.unavailable()  # loads its weights, so that their hashes are known
    return {
        **task.rests_on,
        "suite": suite.model_dump(mode="json", exclude={"note", "seed"}),  # the seed is in how models are used
        "images": {"count": len(source), **source.protocol()},
        "metrics": [dict(tally.protocol()) for tally in tallies],
        "models": {each.name: {**each.used(suite, device), "weights": each.weights} for each in entrants},
        "configs": {e.name: e.config and e.config.model_dump(mode="json") for e in entrants},
        "versions": protocol.versions(),
    }


def lane(each: Entrant, budget: int, metrics: Sequence[Metric[Any]], source: Source, scratch: Scratch) -> Lane:
    """One model at one token count, with empty tallies."""
    unasked, tokenless = each.unasked(source), each.tokenless()
    tallies = [metric.start(each.spec, scratch) for metric in metrics]
    return Lane(budget, [(t, _no_part(t.metric, unasked, tokenless) or t.unavailable()) for t in tallies])


def _no_part(metric: Metric[Any], unasked: str | None, tokenless: str | None) -> str | None:
    """The reason why a metric has no number of these images, whatever they are."""
    return (unasked if metric.of_classes else None) or (tokenless if metric.of_tokens else None)


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
        self.done, self.digest, self.facts = 0, protocol.Digest(), hashlib.sha256()
        self.labels: Counter[int | None] = Counter()
        self.suffixes: Counter[str] = Counter()
        self.ids: list[str] = []
        self.shown: list[Tensor] = []

    def seen(self) -> results.Seen:
        """Facts of the images so far."""
        return results.Seen(self.digest.hex(), self.labels, self.suffixes, self.ids)

    def run(self, partial: Partial, save_seconds: float) -> None:
        """Measure all images that are not `done`."""
        lanes, count = sum(len(entrant.lanes) for entrant in self.entrants), len(self.source)
        bar = None
        if self.progress is not None:
            bar = self.progress.add_task("measuring", total=lanes * count, completed=lanes * self.done)
        saved = monotonic()
        for start in range(self.done, count, self.size):
            self.measure(range(start, min(start + self.size, count)), bar)
            if monotonic() - saved >= save_seconds and self.done < count:
                partial.write(self.state())
                saved = monotonic()

    def state(self) -> dict[str, Any]:
        """The way so far, as plain data and tensors."""
        models = {entrant.name: entrant.state() for entrant in self.entrants}
        digests = {"data_sha256": self.digest.hex(), "facts_sha256": self.facts.hexdigest()}
        return {"done": self.done, **digests, "models": models}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`: the originals so far are read again, for they must be the same.

        Raises:
            ValueError: they are not, or other metrics take part now.
        """
        remedy = "give another folder by -o, or delete its `partial` to begin anew"
        for start in range(0, state["done"], self.size):
            self._read(range(start, min(start + self.size, state["done"])))
        if self.digest.hex() != state["data_sha256"]:
            told = f"the suite's first {state['done']:,} images are others than when the run was interrupted"
            raise ValueError(f"{told}; {remedy}")
        if self.facts.hexdigest() != state.get("facts_sha256", self.facts.hexdigest()):
            told = f"names or labels of the suite's first {state['done']:,} images are others than when the run was"
            raise ValueError(f"{told} interrupted; {remedy}")
        try:
            for entrant in self.entrants:
                entrant.restore(state["models"][entrant.name])
        except KeyError as error:  # weights that came or went in between, or a state of another version
            told = f"what the interrupted run counted is not what is counted now ({error.args[0]})"
            raise ValueError(f"{told}; {remedy}") from None
        self.done = state["done"]
        _tell(f"going on with an interrupted run at image {self.done + 1:,} of {len(self.source):,}", self.progress)

    def _read(self, index: range) -> tuple[Tensor, Sequence[Sample]]:
        samples = self.source.samples(index)
        images = torch.stack([sample.image for sample in samples])
        self.digest.add(images)
        for sample in samples:
            self.facts.update(repr((sample.id, sample.label, sorted(sample.attributes.items()))).encode())
        self.labels.update(sample.label for sample in samples)
        self.suffixes.update(PurePath(sample.id).suffix.lower() for sample in samples)
        show = self._show(index)
        self.shown.append(images[:show].clone())  # a view, even an empty one, would hold the batch
        self.ids += [sample.id for sample in samples[:show]]
        return images, samples

    def _show(self, index: range) -> int:
        return max(0, min(self.suite.show - index[0], len(index)))

    @torch.no_grad()
    def measure(self, index: range, bar: TaskID | None = None) -> None:
        """Read some images, let every model make its own of them, and count."""
        images, samples = self._read(index)
        draws = Rng(self.suite.seed, torch.tensor(index, device=self.device))
        some = Some(index, images.to(self.device), samples, draws)
        for entrant in self.entrants:
            for made in entrant.make(some):
                fake = protocol.to_uint8(made.images, self.suite.rounding)
                exact = made.images if made.images.is_floating_point() else made.images.float() / 255
                taken = Reconstructions(
                    some.real, fake, exact, made.labels, made.tokens, made.attributes, made.remake, made.form
                )
                made.lane.take(taken, self._show(index))
                if self.progress is not None and bar is not None:
                    told = f"{entrant.name}, {made.lane.budget} tokens"
                    self.progress.update(bar, advance=len(index), description=told)
        self.done = index[-1] + 1


def _tell(text: str, progress: Progress | None) -> None:
    if progress is not None:
        progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        log.warning(text)
