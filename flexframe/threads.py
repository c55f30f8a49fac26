"""Processors and threads: how many there are, and how many are worth using.

The kernels of a small model are over in microseconds, and two threads that share them wait for each other after each;
as soon as anything else runs on the machine, one waits for a whole turn of the other program. So a small model has one,
and a large one as many as there are processors to spare.
"""

from __future__ import annotations

import os
from functools import cache

import torch
from torch import nn

SMALL = 30_000_000
"""Parameters below which a model is computed by one thread; `benchmarks/speed/threads.py` measures it."""
GIVEN = "OMP_NUM_THREADS"
"""Environment variable that says how many, before all but the command's own word."""


def cores() -> int:
    """Number of processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device(name: str | torch.device) -> torch.device:
    """A torch device; `auto` takes CUDA, then MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    mps = "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device("cuda" if torch.cuda.is_available() else mps)


@cache
def usual() -> int:
    """Torch's own number, as it was when this was first asked for."""
    return torch.get_num_threads()


def worth(parameters: int) -> int:
    """Number of threads for a model of so many parameters on this machine, as busy as it was in the last minute."""
    if parameters < SMALL:
        return 1
    load = getattr(os, "getloadavg", None)  # Windows has none
    busy = load()[0] / (os.cpu_count() or 1) if load else 0.0
    return max(1, min(usual(), round(cores() * (1 - busy))))


def use(given: int | None, *models: nn.Module) -> int:
    """Set torch's number of threads for the largest of the models, and return it: as `given`, else as the environment
    says, else what is worth it; of a model that is not on the CPU, what it was. Numbers may move as they do with
    threads: sums are added in another order."""
    usual()
    parameters = [each for model in models for each in model.parameters()]
    elsewhere = any(each.device.type != "cpu" for each in parameters)
    if given is None and (elsewhere or os.environ.get(GIVEN)):
        return torch.get_num_threads()
    largest = max((sum(each.numel() for each in model.parameters()) for model in models), default=0)
    number = worth(largest) if given is None else given
    torch.set_num_threads(number)
    return number
