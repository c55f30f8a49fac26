"""Training batches: an endless, seeded order that any step can be entered at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from flexframe.data.held import Held
from flexframe.data.share import WHOLE, Share
from flexframe.data.source import Source
from flexframe.data.transform import Transform, transformed
from flexframe.data.workers import loaded
from flexframe.rng import Rng
from flexframe.tokens import Batch, Codes, Condition
from flexframe_registry import RunConfig


def order(seed: int, epoch: int, count: int) -> Int[Tensor, " n"]:
    """The epoch's permutation of 0..count-1."""
    return torch.argsort(Rng(seed, torch.arange(count), epoch).uniform("data/order"), stable=True)


class _Steps:
    """Batch sampler: step s takes positions s*batch ... of all epochs laid end to end; no image is left out."""

    def __init__(self, count: int, run: RunConfig, start: int, stop: int, share: Share = WHOLE) -> None:
        self.count, self.run, self.start, self.stop, self.share = count, run, start, stop, share

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        batch, epoch, permutation = self.run.batch_size, -1, torch.empty(0, dtype=torch.long)
        for step in range(self.start, self.stop):
            first = 0 if self.run.overfit_batch else step * batch
            rows: list[int] = []
            while len(rows) < batch:
                passed, place = divmod(first + len(rows), self.count)
                if passed != epoch:
                    epoch, permutation = passed, order(self.run.seed, passed, self.count)
                rows += permutation[place : place + batch - len(rows)].tolist()  # at once: one by one takes long
            yield self.share.of(rows, self.run.accumulate)


def steps(count: int, run: RunConfig, start: int, share: Share = WHOLE) -> Iterator[list[int]]:
    """Numbers below `count` for each of steps start..run.steps-1: all of them in another order each epoch."""
    return iter(_Steps(count, run, start, run.steps, share))


def batches(
    source: Source,
    run: RunConfig,
    start: int,
    device: torch.device,
    count: int | None = None,
    share: Share = WHOLE,
    held: Held | None = None,
    workers: int = 0,
    transforms: Sequence[Transform] = (),
) -> Iterator[Batch]:
    """Batches for steps start..run.steps-1, transformed, on the device. The same step is the same batch in every run.

    Of a source's first `count` images, if given; of each batch the rows of a share. Labels are in the condition; rows
    without one are null there. Without any label there is no condition. Images that are `held` are not read again.
    Others are decoded in so many `workers`; 0 decodes in this process.
    """
    rows = _Steps(len(source) if count is None else count, run, start, run.steps, share)
    read = ahead(_read(source, workers, rows, device), device) if held is None else map(held.rows, rows)
    for step, (index, images, labels) in enumerate(read, start):
        condition = conditioned(labels, device)
        occasion = 0 if run.overfit_batch else step
        pictures = transformed(images.float() / 255, transforms, Rng(run.seed, index, occasion))
        yield Batch(index, pictures, condition=condition)


def _read(source: Source, workers: int, rows: _Steps, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Numbers and images on the device, labels on the CPU; decoded in workers, in pinned memory where that helps."""
    read = loaded(partial(_rows, source), rows, workers, device.type == "cuda", source.notes)
    for index, images, labels in read:
        yield index.to(device, non_blocking=True), images.to(device, non_blocking=True), labels


def _rows(source: Source, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers, images, and labels, -1 where there is none."""
    samples = source.samples(rows)
    labels = [-1 if sample.label is None else sample.label for _, sample in zip(rows, samples, strict=True)]
    return torch.tensor(rows), torch.stack([sample.image for sample in samples]), torch.tensor(labels)


def ahead(loaded: Iterator[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Batches as they are loaded, on a GPU one ahead: while it computes on one, the next is copied to it."""
    if device.type != "cuda":
        yield from loaded
        return
    copies: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    before: tuple[Tensor, ...] | None = None
    while True:
        with torch.cuda.stream(copies):
            after = next(loaded, None)
        if before is not None:
            yield before
        if after is None:
            return
        torch.cuda.current_stream(device).wait_stream(copies)
        for part in after:
            if part.is_cuda:
                part.record_stream(torch.cuda.current_stream(device))
        before = after


def conditioned(labels: Int[Tensor, " b"], device: torch.device) -> Condition | None:
    """Labels on the CPU, -1 where there is none, as a condition on the device; None where no row has one."""
    if not bool((labels >= 0).any()):
        return None
    labels = labels.to(device, non_blocking=True)
    return Condition(labels < 0, labels.clamp(min=0))


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch as the loader gives it in equal parts, for gradient accumulation."""
    if parts == 1:
        return [batch]
    portions = [Batch(index) for index in batch.index.chunk(parts)]
    if batch.images is not None:
        portions = [replace(part, images=each) for part, each in zip(portions, batch.images.chunk(parts), strict=True)]
    if batch.latents is not None:
        portions = [
            replace(part, latents=each) for part, each in zip(portions, batch.latents.chunk(parts), strict=True)
        ]
    for name, values in batch.features.items():
        chunks = zip(portions, values.chunk(parts), strict=True)
        portions = [replace(part, features={**part.features, name: each}) for part, each in chunks]
    if batch.codes is not None:
        pairs = zip(batch.codes.codes.chunk(parts), batch.codes.keep.chunk(parts), strict=True)
        portions = [replace(part, codes=Codes(*pair)) for part, pair in zip(portions, pairs, strict=True)]
    if batch.condition is None:
        return portions
    conditions = zip(portions, batch.condition.chunk(parts), strict=True)
    return [replace(part, condition=condition) for part, condition in conditions]
