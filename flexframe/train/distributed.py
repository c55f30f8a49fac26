"""The processes of a run: who they are, and what they tell each other.

Everything that depends on there being several goes through one `Processes`; with a single one nothing is sent.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from flexframe.data.share import Share
from flexframe.data.workers import end_all
from flexframe_registry import ConfigError

T = TypeVar("T")
GRACE = 2.0
"""Seconds by which the first process may be behind in finding what another one found."""
MARGIN = 120
"""Seconds that a collective waits beyond a run's timeout, so that the watch has told before who is missing."""


LOSS = re.compile(r"gloo|NCCL|Connection (closed|reset) by peer|Broken pipe")
"""Words of the errors that a process meets when another one is gone."""


class Elsewhere(ConfigError):
    """The end of one of several processes, since another one ended; the first process tells it."""


@dataclass(frozen=True, slots=True)
class Processes:
    """A run's processes, seen from one of them."""

    rank: int = 0
    size: int = 1
    names: tuple[str, ...] = ("rank 0",)
    """Each process as a person finds it: rank, host, process id."""

    @property
    def first(self) -> bool:
        """True for the process that writes files and shows the console."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """This process's rows of each batch."""
        return Share(self.rank, self.size)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes."""
        return self._reduced(values, dist.ReduceOp.SUM) / self.size if self.size > 1 else values

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def least(self, values: Tensor) -> Tensor:
        """The smallest over processes."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def most(self, values: Tensor) -> Tensor:
        """The largest over processes."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def told(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """Every process's value, on each of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def elsewhere(self, error: BaseException, noted: str | None) -> Elsewhere | None:
        """Name the cause of an error that only says that another process is gone; None for errors of this one.

        Args:
            noted: the reason that another process has noted, if one failed.
        """
        if self.size == 1 or not _is_loss(error):
            return None
        if noted is not None:
            return Elsewhere.at("", f"ended with another process: {noted}")
        text = "ended with another process, which was killed or whose host is gone"
        return Elsewhere.at("", f"{text} ({' '.join(str(error).split())})")

    def told_by(self, error: BaseException) -> str:
        """An error as a run's folder keeps it: with its process, where there are several."""
        if isinstance(error, Elsewhere):
            return str(error)
        return f"{f'{self.names[self.rank]}: ' * (self.size > 1)}{type(error).__name__}: {error}"

    def _reduced(self, values: Tensor, how: Any) -> Tensor:
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values, how)
        return values


ALONE = Processes()


def _is_loss(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and LOSS.search(str(error)) is not None
    )


def launched() -> bool:
    """True where torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's number by torchrun's environment; 0 without it."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def local_device(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The device of one of several processes: the CPU, or the GPU of its number on this host.

    Raises:
        ConfigError: there are fewer GPUs than processes, or one GPU is named for all.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        number, count = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= count:
            text = f"torchrun started more processes on {socket.gethostname()} than it has GPUs ({count})"
            raise ConfigError.at("--nproc-per-node", f"{text}; start {count}, or give --device cpu")
        return f"cuda:{number}"
    if name.startswith("cuda:"):
        raise ConfigError.at("--device", f"{name!r} is one GPU, and each process has its own; give cuda, or cpu")
    return name


def join(device: torch.device, timeout: float) -> Processes:
    """Meet the other processes that torchrun started; `leave` when done. A single process meets nobody.

    Before any model is built: what is built afterwards (codebooks of running means) knows that it is shared.

    Args:
        timeout: seconds without progress after which a process counts as hung.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # events and streams that name no device are of this one
    if not launched():
        return ALONE
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout + MARGIN))
    own = f"rank {dist.get_rank()} on {socket.gethostname()} (process {os.getpid()})"
    names: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(names, own)
    return Processes(dist.get_rank(), len(names), tuple(names))


def leave() -> None:
    """Part from the other processes, which do so too."""
    if dist.is_initialized():
        dist.destroy_process_group()


def joined() -> bool:
    """True where this process is one of several that have met."""
    return dist.is_initialized()


def abandon(code: int) -> NoReturn:
    """End this process, one of several, at once; its error is told.

    The others may know nothing of it and be in a collective that waits for this one. Parting from them, or Python's own
    way to end, would wait for them in turn (NCCL does). torchrun sees the exit and ends them.
    """
    end_all()
    sys.stdout.flush()
    sys.stderr.flush()
    if dist.get_rank() > 0:
        time.sleep(GRACE)  # what all processes find, the first one tells: let it, before torchrun ends it
    os._exit(code)
