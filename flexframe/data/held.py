"""A whole small data set on the device, 8 bits a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from flexframe.data.source import Source
from flexframe.data.waiting import waiting
from flexframe_registry import ConfigError

PORTION = 256
"""Images read at a time."""
GIB = 1 << 30


@dataclass(frozen=True)
class Held:
    """The images of a source, all of them: RGB uint8 on the device, and labels, -1 for none, on the CPU."""

    images: Tensor
    labels: Tensor

    def rows(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers, images and labels of these rows."""
        index = torch.tensor(numbers)
        here = index.to(self.images.device, non_blocking=True)
        return here, self.images[here], self.labels[index]


def hold(source: Source, device: torch.device) -> Held:
    """Read a source into the device's memory. `ConfigError` where a GPU has no room for it."""
    shape = (len(source), 3, *source.size)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if prod(shape) > free:
            need = f"{len(source):,} images take {prod(shape) / GIB:.1f} GiB, and the GPU has {free / GIB:.1f} free"
            raise ConfigError.at("run.feed.preload", f"{need}; leave it out, and give run.feed.workers")
    images = torch.empty(shape, dtype=torch.uint8, device=device)
    labels = torch.full((len(source),), -1)
    with waiting("reading the data set", len(source)) as told:
        for start in range(0, len(source), PORTION):
            samples = source.samples(range(start, min(start + PORTION, len(source))))
            images[start : start + len(samples)] = torch.stack([sample.image for sample in samples]).to(device)
            given = [-1 if sample.label is None else sample.label for sample in samples]
            labels[start : start + len(samples)] = torch.tensor(given)
            told(start + len(samples))
    return Held(images, labels)
