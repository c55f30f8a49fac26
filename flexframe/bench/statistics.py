"""Statistics of a source's images as a file, with which later images are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flexframe.bench.metric import Metric
from flexframe.files import replaced
from flexframe_registry import ConfigError


def write_statistics(metrics: Sequence[Metric[Any]], out: Path, device: torch.device) -> dict[str, np.ndarray]:
    """Write what metrics keep of their source's images into one `.npz`, and return it.

    Raises:
        ConfigError: a metric that takes no statistics, two that call other things by one name, or another suffix.
        ValueError: weights that cannot be had.
    """
    if out.suffix != ".npz":
        raise ConfigError.at(str(out), "is no name of a .npz file; statistics are kept in one")
    held: dict[str, np.ndarray] = {}
    for metric in metrics:
        found = metric.statistics(device)
        if found is None:
            raise ConfigError.at(metric.config.type, "compares with no statistics; name a metric that does, as frechet")
        for name, value in found.items():
            array = np.asarray(value)
            if name in held and not np.array_equal(held[name], array):
                raise ConfigError.at(name, "is another thing to each of these metrics; write a file for each")
            held[name] = array
    out.parent.mkdir(parents=True, exist_ok=True)
    with replaced(out) as part, part.open("wb") as file:
        np.savez(file, **held)  # type: ignore[arg-type]
    return held
