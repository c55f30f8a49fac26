"""Transforms of training images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from flexframe.data.transform import Transform
from flexframe.rng import Rng
from flexframe_standard.transforms_config import (
    ColourJitterConfig,
    FlipConfig,
    GrayscaleConfig,
    RandomResizedCropConfig,
    ShiftConfig,
    VerticalFlipConfig,
)

TRIES = 10
"""Parts that are drawn before the largest one in the middle is taken, as torchvision does."""


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


class VerticalFlip(Transform[VerticalFlipConfig]):
    """Mirrors images top to bottom, each by a draw of its own."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        mirrored = rng.uniform("data/vertical-flip") < self.config.probability
        return torch.where(mirrored[:, None, None, None], images.flip(2), images)


class RandomResizedCrop(Transform[RandomResizedCropConfig]):
    """Takes a part of each image, by draws of its own, and brings it to the whole's size."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        size, mode = list(images.shape[2:]), InterpolationMode(self.config.interpolation)
        draws = rng.uniform("data/random-resized-crop", (TRIES, 4)).tolist()
        parts = (self.part(size[0], size[1], each) for each in draws)
        return torch.stack(
            [
                F.resized_crop(image, *part, size=size, interpolation=mode, antialias=True)
                for image, part in zip(images, parts, strict=True)
            ]
        )

    def part(self, height: int, width: int, draws: list[list[float]]) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part, of numbers in [0, 1): the first try that fits, else the largest part
        in the middle of an allowed shape."""
        (least, most), (narrow, wide) = self.config.scale, self.config.ratio
        for area, shape, top, left in draws:
            target = height * width * (least + area * (most - least))
            ratio = math.exp(math.log(narrow) + shape * (math.log(wide) - math.log(narrow)))
            w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        ratio = min(max(width / height, narrow), wide)
        h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - h) // 2, (width - w) // 2, h, w


class ColourJitter(Transform[ColourJitterConfig]):
    """Changes the colours of each image by draws of its own."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        config = self.config
        ranges = [(max(0.0, 1 - each), 1 + each) for each in (config.brightness, config.contrast, config.saturation)]
        ranges.append((-config.hue, config.hue))
        changes = F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue
        amounts = rng.uniform("data/colour-jitter", (4,)).tolist()
        orders = rng.uniform("data/colour-jitter-order", (4,)).argsort(1).tolist()
        changed = []
        for image, drawn, order in zip(images, amounts, orders, strict=True):
            for i in order:
                low, high = ranges[i]
                if low < high:
                    image = changes[i](image, low + drawn[i] * (high - low))
            changed.append(image)
        return torch.stack(changed)


class Grayscale(Transform[GrayscaleConfig]):
    """Takes the colours of some images away, each by a draw of its own."""

    def __call__(self, images: Tensor, *, rng: Rng) -> Tensor:
        chosen = rng.uniform("data/grayscale") < self.config.probability
        return torch.where(chosen[:, None, None, None], F.rgb_to_grayscale(images, 3), images)
