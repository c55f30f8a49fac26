"""Golden tensors of the reference implementations: where they are, and how a comparison is told."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from flexframe.importing.compare import ATOL, compare


def shared(start: Path) -> Path:
    """The folder of shared test material: $FLEXFRAME_SHARED, or `shared` beside the repository that `start` is in."""
    if "FLEXFRAME_SHARED" in os.environ:
        return Path(os.environ["FLEXFRAME_SHARED"])
    roots = [p for p in start.resolve().parents if (p / ".git").exists()]
    return (roots[0].parent if roots else start.parent) / "shared"


def assert_parity(name: str, found: Tensor, golden: Tensor, atol: float = ATOL) -> None:
    """Print the largest error, and fail past the tolerance, which is `compare`'s; integers must be equal."""
    compared = compare("", name, found, golden, atol)
    if compared.exact:
        told = f"{compared.error:.0f} of {golden.numel()} differ"
    else:
        told = f"largest error {compared.error:.2e} of {compared.tolerance:.0e}"
    print(f"{name:<44} {told} {compared.note}".rstrip())
    assert compared.passed, f"{name}: {told} {compared.note}"
