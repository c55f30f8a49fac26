"""The state of the generators that libraries draw from, saved and restored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators, from which libraries draw, of this process."""
    state = {"cpu": torch.get_rng_state()}
    return state if device.type != "cuda" else {**state, "cuda.0": torch.cuda.get_rng_state(device)}


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`. What it does not hold stays as it is."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda.0" in state:
        torch.cuda.set_rng_state(state["cuda.0"], device)


def _prefix(rank: int) -> str:
    return f"rank{rank}." if rank else ""
