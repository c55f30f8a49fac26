"""One pass over a suite's images: what every model makes, at every token count it supports, beside the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from flexframe.bench import growth, results, split
from flexframe.bench.gallery import Gallery, Report
from flexframe.bench.lanes import Entrant
from flexframe.bench.metric import Measure, Metric, Scratch
from flexframe.bench.partial import Partial
from flexframe.bench.passes import Head, Pass, lane, rests_on, tell
from flexframe.bench.reconstructions import Reconstruct
from flexframe.bench.task import Task
from flexframe.data.source import Source
from flexframe.files import drop_parts, see_writable
from flexframe.lock import writes
from flexframe.models.tokenizer import Tokenizer
from flexframe_registry import SuiteConfig, catalogue, manager

Models = Sequence[tuple[str, Tokenizer]]
SAVE_SECONDS = 20.0


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
    processes: int = 1,
) -> Report:
    """Measure how models rebuild a suite's images: `measure`, of the task `Reconstruct`.

    Args:
        models: pairs of a display name and a tokenizer; all must have one image size.
        processes: so many, each with images of its own.
    """
    return measure(
        Reconstruct(models), suite, out, name=name, batch_size=batch_size, device=device, progress=progress,
        save_seconds=save_seconds, processes=processes,
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
    processes: int = 1,
) -> Report:
    """Measure what a task's models make and write `out/results.json`. Leaves them on `device`, in evaluation mode.

    Numbers do not depend on `batch_size`: each image draws by its own index. Interrupted, the same call goes on from
    what `out/partial` holds, and gives the same numbers. Models that stand in `out/results.json` already, of the same
    suite and protocol, stay there and are not measured again.

    Args:
        name: the suite's name, for the page.
        progress: a running rich progress display to add a bar to.
        save_seconds: after how long the state is saved, at the end of a batch.
        processes: so many share the images, each on a GPU of its own where there are several; numbers are those of one
            but for the last digit of sums. What they are pickled from must be importable.

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
        tell(f"{told}; delete {path} to measure anew", progress)
    spans = split.spans(len(source), batch_size, processes)
    walk = Pass(source, new, suite, batch_size, device, progress, spans[0])
    if new or held is None:
        partial = Partial(out, rests_on(task, suite, source, metrics, new, device), 0, spans)
        state = partial.read()
        for number, each in enumerate(new):
            each.lanes = [lane(each, k, metrics, source, partial.scratch(number, k)) for k in budgets[each.name]]
        if state is not None:
            walk.restore(state)
        share = split.Share(task, suite, out, [each.name for each in new], batch_size, device, save_seconds)
        with split.others(share, spans) as others:
            walk.run(partial, save_seconds)
            split.join(walk, others, partial)
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
