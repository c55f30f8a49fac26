"""Golden tensors of the reference implementations: where they are, and how a comparison is told."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor


def shared(start: Path) -> Path:
    """The folder of shared test material: $FLEXFRAME_SHARED, or `shared` beside the repository that `start` is in."""
    if "FLEXFRAME_SHARED" in os.environ:
        return Path(os.environ["FLEXFRAME_SHARED"])
    roots = [p for p in start.resolve().parents if (p / ".git").exists()]
    return (roots[0].parent if roots else start.parent) / "shared"


def assert_parity(name: str, found: Tensor, golden: Tensor, atol: float = 2e-5, rtol: float = 0.0) -> None:
    """Print the largest error, and fail past the tolerance; integers must be equal."""
    assert found.shape == golden.shape, f"{name}: shape {tuple(found.shape)}, golden {tuple(golden.shape)}"
    if not golden.is_floating_point():
        wrong = int((found != golden).sum())
        print(f"{name:<44} {wrong} of {golden.numel()} differ")
        assert wrong == 0, f"{name}: {wrong} of {golden.numel()} differ"
        return
    error = (found - golden).abs()
    print(f"{name:<44} largest error {error.max():.2e}")
    torch.testing.assert_close(found, golden, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")
