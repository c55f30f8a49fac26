"""A suite shared by processes: each measures images of its own, and the first joins what the others counted.

Every process goes through whole batches that one process would go through too, so that images come out the same; only
sums are added in another order. Each leaves its state in the folder of what an interrupted run leaves, and goes on from
it; features on disk are addressed by an image's position, and so lie together.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from flexframe.bench.lanes import Entrant
from flexframe.bench.metric import Scratch
from flexframe.bench.partial import Partial
from flexframe.bench.passes import Head, Pass, lane, rests_on, tell
from flexframe.bench.task import Task
from flexframe_registry import ConfigError, SuiteConfig, catalogue


@dataclass(frozen=True)
class Share:
    """Work that all processes of a benchmark are told."""

    task: Task
    suite: SuiteConfig
    out: Path
    names: Sequence[str]
    """Models that are measured."""
    batch_size: int
    device: torch.device
    save_seconds: float


@dataclass(frozen=True)
class Other:
    """Another process, and its images."""

    process: Any
    answer: Connection
    number: int
    span: range


def spans(count: int, batch_size: int, processes: int) -> list[range]:
    """The images of each process: whole batches, as many as can be alike. There are no more processes than batches.

    Raises:
        ConfigError: no process.
    """
    if processes < 1:
        raise ConfigError.at("processes", f"is how many share the images, 1 at least, not {processes}")
    batches = max(1, -(-count // batch_size))
    several = min(processes, batches)
    ends = [min(count, batches * i // several * batch_size) for i in range(several + 1)]
    return [range(start, stop) for start, stop in pairwise(ends)]


@contextmanager
def others(share: Share, parts: Sequence[range]) -> Iterator[list[Other]]:
    """Start all processes but the first, which is the caller's own; they are ended where the block is left early."""
    context, made = multiprocessing.get_context("spawn"), list[Other]()
    try:
        for number, span in enumerate(parts[1:], 1):
            ours, theirs = context.Pipe(duplex=False)
            given = share, number, parts, torch.get_num_threads(), theirs
            process = context.Process(target=_main, args=given, daemon=True)
            process.start()
            theirs.close()
            made.append(Other(process, ours, number, span))
        yield made
    finally:
        for other in made:
            other.process.terminate()
            other.process.join()


def join(walk: Pass, made: Sequence[Other], partial: Partial) -> None:
    """Wait for the other processes, and take in what they counted; meanwhile their images' facts are read here.

    Raises:
        ValueError: one of them ended otherwise; it tells why.
    """
    for other in made:
        if other is made[0]:
            tell(f"waiting for {len(made)} more processes", walk.progress)
        walk.read(other.span)
        try:
            why = other.answer.recv()
        except EOFError:
            other.process.join()
            why = f"ended with exit code {other.process.exitcode}"
        state = None if why else partial.other(other.number).read()
        if state is None:
            told = f"process {other.number + 1}, of images {other.span.start:,} to {other.span.stop - 1:,}"
            raise ValueError(f"{told}: {why}; the same command goes on where they stopped")
        for entrant in walk.entrants:
            entrant.join(state["models"][entrant.name])
        walk.done = other.span.stop


def _main(share: Share, number: int, spans: Sequence[range], threads: int, answer: Connection) -> None:
    """Measure one process's images, and send nothing, or the reason why not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    torch.set_num_threads(threads)
    try:
        _measure(share, number, spans)
        answer.send("")
    except Exception as error:  # the first process tells it
        answer.send(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")


def _measure(share: Share, number: int, spans: Sequence[range]) -> None:
    task, suite, device, span = share.task, share.suite, share.device, spans[number]
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", number % torch.cuda.device_count())
    size, budgets = task.sizes()[0][1], task.budgets(suite)
    source = Head(catalogue().build(suite.data, size, place="data"), suite.count)
    task.see(source)
    metrics = task.metrics([catalogue().build(config, source) for config in suite.metrics])
    entrants: list[Entrant] = [each for each in task.entrants(device) if each.name in share.names]
    for each in entrants:
        each.lanes = [lane(each, k, metrics, source, Scratch()) for k in budgets[each.name]]
    partial = Partial(share.out, rests_on(task, suite, source, metrics, entrants, device), number, spans)
    state = partial.read()
    for place, each in enumerate(entrants):
        scratches = {k: partial.scratch(place, k, span.start) for k in budgets[each.name]}
        each.lanes = [lane(each, k, metrics, source, scratch) for k, scratch in scratches.items()]
        for one in each.lanes:
            one.rows = []
    walk = Pass(source, entrants, suite, share.batch_size, device, None, span)
    if state is not None:
        walk.restore(state)
    walk.run(partial, share.save_seconds)
    partial.write(walk.state())
