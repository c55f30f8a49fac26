"""The comparisons that parity tests made: recorded as they run, told at the end of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flexframe.importing.compare import Comparison, cases

_RECORDED: dict[str, list[Comparison]] = {}


def check(name: str, found: Iterable[Comparison]) -> list[Comparison]:
    """Record the comparisons of a checkpoint, and fail on those past their tolerance."""
    compared = list(found)
    _RECORDED.setdefault(name, []).extend(compared)
    failed = [f"{c.case}/{c.tensor}: {c.error:.2e} of {c.tolerance:.0e} {c.note}" for c in compared if not c.passed]
    assert compared, f"{name}: nothing was compared"
    assert not failed, f"{name}: {len(failed)} of {len(compared)} past tolerance: " + "; ".join(failed)
    return compared


def report(write_line: Callable[[str], object]) -> None:
    """One line a case: its tensors, and the one nearest to its tolerance."""
    for name, found in _RECORDED.items():
        for case in cases(found):
            write_line(f"{name:<18} {case:<22} {_line([c for c in found if c.case == case])}")


def _line(found: Sequence[Comparison]) -> str:
    exact, real = [c for c in found if c.exact], [c for c in found if not c.exact]
    parts = []
    if real:
        worst = max(real, key=lambda c: c.error / c.tolerance)
        parts.append(f"{len(real)} tensors, largest error {worst.error:.1e} of {worst.tolerance:.0e} ({worst.tensor})")
    if exact:
        parts.append(f"ids: {sum(c.error for c in exact):.0f} of {sum(c.largest for c in exact):.0f} differ")
    return "; ".join(parts)
