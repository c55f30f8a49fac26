"""The way of models through a suite's images, or through a part of them, and what is counted on it."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from time import monotonic
from typing import Any

import torch
from rich.progress import Progress, TaskID
from torch import Tensor

from flexframe.bench import protocol, results
from flexframe.bench.lanes import Entrant, Lane, Some
from flexframe.bench.metric import Metric, Reconstructions, Scratch
from flexframe.bench.partial import Partial
from flexframe.bench.task import Task
from flexframe.data.source import AttributeClassifier, CaptionReader, Sample, Source
from flexframe.rng import Rng
from flexframe_registry import ConfigError, SuiteConfig

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


def rests_on(
    task: Task,
    suite: SuiteConfig,
    source: Source,
    metrics: Sequence[Metric[Any]],
    entrants: Sequence[Entrant],
    device: torch.device,
) -> dict[str, Any]:
    """Facts that decide the numbers, known before the images are: the rest of a run must agree in them."""
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
    """The way through the images, or through those of `index`, from `done` on."""

    def __init__(
        self,
        source: Source,
        entrants: Sequence[Entrant],
        suite: SuiteConfig,
        batch_size: int,
        device: torch.device,
        progress: Progress | None,
        index: range | None = None,
    ) -> None:
        self.source, self.entrants, self.suite, self.size = source, entrants, suite, batch_size
        self.device, self.progress, self.index = device, progress, index or range(len(source))
        self.done, self.digest, self.facts = self.index.start, protocol.Digest(), hashlib.sha256()
        self.labels: Counter[int | None] = Counter()
        self.suffixes: Counter[str] = Counter()
        self.ids: list[str] = []
        self.shown: list[Tensor] = []
        self._ahead: dict[range, Future[Sequence[Sample]]] = {}

    def seen(self) -> results.Seen:
        """Facts of the images so far."""
        return results.Seen(self.digest.hex(), self.labels, self.suffixes, self.ids)

    def run(self, partial: Partial, save_seconds: float) -> None:
        """Measure all images that are not `done`; the next ones are read while the models work."""
        lanes, stop = sum(len(entrant.lanes) for entrant in self.entrants), self.index.stop
        bar, before = None, self.done - self.index.start
        if self.progress is not None:
            bar = self.progress.add_task("measuring", total=lanes * len(self.index), completed=lanes * before)
        saved = monotonic()
        parts = [range(start, min(start + self.size, stop)) for start in range(self.done, stop, self.size)]
        with ThreadPoolExecutor(1) as reader:
            for number, part in enumerate(parts):
                following = parts[number + 1 : number + 2]
                self._ahead |= {each: reader.submit(self.source.samples, each) for each in (part, *following)
                                if each not in self._ahead}  # fmt: skip
                self.measure(part, bar)
                if monotonic() - saved >= save_seconds and self.done < stop:
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
        self.read(range(self.index.start, state["done"]))
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
        tell(f"going on with an interrupted run at image {self.done + 1:,} of {len(self.source):,}", self.progress)

    def read(self, index: range) -> None:
        """Take in images that are measured already, or elsewhere: their facts alone."""
        for start in range(index.start, index.stop, self.size):
            self._read(range(start, min(start + self.size, index.stop)))

    def _read(self, index: range) -> tuple[Tensor, Sequence[Sample]]:
        ahead = self._ahead.pop(index, None)
        samples = self.source.samples(index) if ahead is None else ahead.result()
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
                if not bool(made.images.isfinite().all()):
                    text = f"pictures of images {index[0]:,} to {index[-1]:,} from {made.lane.budget} tokens"
                    remedy = "mend its sampling settings or compute in higher precision, or leave the model out"
                    raise ConfigError.at(entrant.name, f"{text} hold values that are not finite; {remedy}")
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


def tell(text: str, progress: Progress | None) -> None:
    """Say something beside a progress bar, or in the log."""
    if progress is not None:
        progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
    else:
        log.warning(text)
