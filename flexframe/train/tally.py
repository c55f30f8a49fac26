"""Counts of a run between two log lines, kept on the device: means of losses and gradient norms, and what of them was
not finite. Read in one go, when a line is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexframe.tokens import Codes
from flexframe.train.distributed import Processes

NEVER = 2.0**24
"""A number of steps that no interval has; below it float32 counts exactly."""


@dataclass(frozen=True, slots=True)
class Reading:
    """An interval of steps, read from the device: the same on every process."""

    values: dict[str, float | None]
    """Means over the steps that counted; None where none did."""
    skipped: int
    """Steps whose update was left out."""
    in_a_row: int
    """The most steps left out one after the other: of this interval, and of those before it where it begins so."""
    first: int | None
    """The first step of the interval, from 0, at which something was not finite."""
    troubles: list[str]
    """Names of what was not finite at that step."""


class Sums:
    """Sums of one set of names. There is more than one set in an interval where an objective starts within it."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.values = torch.zeros(count, device=device)
        self.counted = torch.zeros((), device=device)
        self.first = torch.full((count,), NEVER, device=device)


class Tally:
    """Adds up scalars by name, step by step, without waiting for the device."""

    def __init__(self, device: torch.device, processes: Processes, skip: bool) -> None:
        self.device, self.processes, self.skip = device, processes, skip
        self.row = torch.zeros(2, device=device)
        """Steps left out one after the other: until now, and at most in this interval."""
        self.reset()

    def reset(self) -> None:
        """Begin another interval."""
        self.steps = 0
        self.row[1] = self.row[0]
        self.sums: dict[tuple[str, ...], Sums] = {}

    def add(self, values: Mapping[str, Tensor]) -> Tensor | None:
        """Add a step. Where steps may be skipped, returns 1.0 for one whose update is to be left out, else 0.0: the
        same on every process."""
        row = torch.stack([value.detach().float() for value in values.values()])
        sums = self.sums.setdefault(tuple(values), Sums(len(row), self.device))
        finite = row.isfinite()
        sums.first = torch.where(finite, sums.first, sums.first.clamp(max=self.steps))
        self.steps += 1
        if not self.skip:
            sums.values += row
            sums.counted += 1
            return None
        bad = self.processes.most((~finite).any().float())
        sums.values += torch.where(bad.bool(), 0, row)
        sums.counted += 1 - bad
        self.row[0] = (self.row[0] + 1) * bad
        self.row[1] = torch.maximum(*self.row)
        return bad

    def read(self) -> Reading:
        """The interval so far. The only point at which training waits for the device."""
        names = [name for group in self.sums for name in group]
        means = torch.cat([sums.values / sums.counted.clamp(min=1) for sums in self.sums.values()])
        counts = torch.stack([sums.counted for sums in self.sums.values()])
        first = self.processes.least(torch.cat([sums.first for sums in self.sums.values()]))
        numbers = torch.cat([self.processes.mean(means), first, self.row[1:], counts]).tolist()
        count = len(names)
        firsts, in_a_row, counted = numbers[count : 2 * count], numbers[2 * count], numbers[2 * count + 1 :]
        steps = [each for each, group in zip(counted, self.sums, strict=True) for _ in group]
        values = {name: value if own else None for name, value, own in zip(names, numbers, steps, strict=False)}
        start = int(min(firsts))
        bad = [name for name, step in zip(names, firsts, strict=True) if step == start and step < NEVER]
        parts = [name for name in bad if name not in ("loss", "grad_norm")] or bad  # sums of the others
        return Reading(values, self.steps - round(sum(counted)), round(in_a_row), start if bad else None, parts)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The interval so far, for a checkpoint within it: what is no tensor, and tensors."""
        tensors = {}
        for i, sums in enumerate(self.sums.values()):
            tensors[f"{i}.values"] = self.processes.mean(sums.values)
            tensors[f"{i}.counted"], tensors[f"{i}.first"] = sums.counted.clone(), self.processes.least(sums.first)
        if self.skip:
            tensors["row"] = self.row.clone()
        return {"steps": self.steps, "names": [list(names) for names in self.sums]}, tensors

    def load(self, facts: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> None:
        """Go on within the interval of a checkpoint, if it says of one."""
        self.reset()
        self.row.copy_(tensors["row"]) if "row" in tensors else self.row.zero_()
        if facts is None:
            return
        self.steps = facts["steps"]
        for i, names in enumerate(facts["names"]):
            sums = self.sums[tuple(names)] = Sums(len(names), self.device)
            sums.values.copy_(tensors[f"{i}.values"])
            sums.counted.copy_(tensors[f"{i}.counted"])
            sums.first.copy_(tensors[f"{i}.first"])


class Usage:
    """Counts of each codebook's entries since the last log line, kept on the device without a sync."""

    def __init__(self, codebooks: tuple[int, int] | None, device: torch.device, processes: Processes) -> None:
        self.processes = processes
        self.counts = None if codebooks is None else torch.zeros(codebooks, dtype=torch.long, device=device)

    def update(self, codes: Codes, skip: Tensor | None = None) -> None:
        """Note a step's codes, unless the step is left out (`skip` is 1.0, else 0.0)."""
        if self.counts is not None:
            # features that are not finite have codes that are none; the loss tells of them, an index must not
            entries = codes.codes.clamp(0, self.counts.shape[1] - 1).flatten(0, 1).mT
            present = codes.keep if skip is None else codes.keep * (1 - skip)
            self.counts.scatter_add_(1, entries, present.flatten().long().expand_as(entries))

    def take(self) -> dict[str, int | float | None]:
        """Entries that any process has used and those that none has (`codes_dead`), of all codebooks, and the
        perplexity of a codebook's codes: so many, used evenly, would have as much entropy as the codebooks have in the
        mean. The count begins again."""
        if self.counts is None:
            return {"codes_used": None}
        counts = self.processes.sum(self.counts)
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        entropy = torch.special.entr(shares).sum(1).mean()
        used, perplexity = torch.stack([(counts > 0).sum(), entropy.exp()]).tolist()
        self.counts.zero_()
        dead = counts.numel() - int(used)
        return {"codes_used": int(used), "codes_dead": dead, "codes_perplexity": round(perplexity, 3)}

    def state(self) -> dict[str, Tensor]:
        """Uses of each entry since the last log line, of all processes, for a checkpoint."""
        return {} if self.counts is None else {"counts": self.processes.sum(self.counts).clone()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's counts; one of before says which entries were used and not how often, or has one
        count for all codebooks, which begins again."""
        uses = tensors.get("counts", tensors.get("seen"))
        if self.counts is None or uses is None or not self.processes.first:  # the others' are in them
            return
        if uses.numel() == self.counts.numel():
            self.counts.copy_(uses.view_as(self.counts))
