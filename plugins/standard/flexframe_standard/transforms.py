"""Transforms of training images."""

from __future__ import annotations

import torch
from torch import Tensor

from flexframe.data.transform import Transform
from flexframe.rng import Rng
from flexframe_standard.transforms_config import FlipConfig, ShiftConfig


class Flip(Transform[FlipConfig]):
    """Mirrors images left to right, each by a draw of its own."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        mirrored = rng.uniform("data/flip") < self.config.probability
        return torch.where(mirrored[:, None, None, None], images.flip(3), images)


class Shift(Transform[ShiftConfig]):
    """Moves images by up to so many pixels along each axis, each by draws of its own; edges are repeated."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        most = self.config.pixels
        moves = rng.integers("data/shift", 2 * most + 1, (2,)) - most
        for axis, move in zip((2, 3), moves.T, strict=True):
            size = images.shape[axis]
            where = (torch.arange(size, device=images.device) + move[:, None]).clamp(0, size - 1)
            shape = [len(images), 1, 1, 1]
            shape[axis] = size
            images = images.gather(axis, where.view(shape).expand_as(images))
        return images
