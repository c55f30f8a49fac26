"""Golden cases: tensors that a reference implementation computed, against ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ATOL = 2e-5
"""What an entry may differ by, unless a comparison says otherwise."""
ROUNDING = 32 * torch.finfo(torch.float32).eps
"""Least tolerance as a share of the largest entry, 3.8e-6.

Kernels of another processor, or of another number of threads, add in another order, and the sums move in proportion
to their terms. So an absolute tolerance is only as strict as single precision can keep: with `ATOL`, it stays as it is
for entries up to 5.2, and grows with larger ones.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One tensor of a case: the largest error, and what it may be."""

    case: str
    tensor: str
    error: float
    """Largest absolute difference; entries that differ, for integers; infinite where shapes differ."""
    tolerance: float
    largest: float = 0.0
    """Largest magnitude of the golden tensor, to judge the error by."""
    exact: bool = False
    """Integers: none may differ."""
    note: str = ""

    @property
    def passed(self) -> bool:
        """True where the error is within the tolerance."""
        return self.error <= self.tolerance


def compare(
    case: str, tensor: str, ours: Tensor, golden: Tensor, atol: float = ATOL, rtol: float = 0.0, note: str = ""
) -> Comparison:
    """Compare a tensor of ours with the golden one, to `atol` and `rtol` together, or to `ROUNDING` where that is more.

    `rtol` and `ROUNDING` are of the golden tensor's largest magnitude. Integers must be equal.
    """
    if ours.shape != golden.shape:
        told = f"shape {tuple(ours.shape)}, golden {tuple(golden.shape)}"
        return Comparison(case, tensor, float("inf"), atol, exact=not golden.is_floating_point(), note=told)
    if not golden.is_floating_point():
        return Comparison(case, tensor, float((ours != golden).sum()), 0.0, float(golden.numel()), True, note)
    largest = float(golden.abs().max()) if golden.numel() else 0.0
    error = float((ours.detach().double() - golden.double()).abs().max()) if golden.numel() else 0.0
    error = error if error == error else float("inf")  # NaN passes no comparison
    return Comparison(case, tensor, error, max(atol + rtol * largest, ROUNDING * largest), largest, False, note)


def summary(comparisons: Sequence[Comparison]) -> str:
    """One line: how many, how many past their tolerance, the largest error against its tolerance."""
    failed = [c for c in comparisons if not c.passed]
    worst = max(comparisons, key=lambda c: (not c.passed, c.error / c.tolerance if c.tolerance else c.error))
    told = f"{len(comparisons)} tensors, {len(failed)} past tolerance"
    return f"{told}; nearest to it: {worst.case}/{worst.tensor} {worst.error:.1e} of {worst.tolerance:.0e}"


def cases(comparisons: Iterable[Comparison]) -> list[str]:
    """The cases that were run, in order, each once."""
    return list(dict.fromkeys(c.case for c in comparisons))
