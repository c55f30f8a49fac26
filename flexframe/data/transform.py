"""The contract of transforms: what is done to training images before they are used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic

from jaxtyping import Shaped
from torch import Tensor
from typing_extensions import TypeVar

from flexframe.rng import Rng
from flexframe_registry.kinds import TransformConfig

TransformC = TypeVar("TransformC", bound=TransformConfig, default=TransformConfig)


class Transform(ABC, Generic[TransformC]):
    """A change of training images, built as `(config)`. The same images and draws give the same result."""

    def __init__(self, config: TransformC) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, images: Shaped[Tensor, "b 3 h w"], *, rng: Rng) -> Shaped[Tensor, "b 3 h w"]:
        """Changed images, of the shape and type that came in: uint8, or floats in [0, 1].

        The images handed in stay as they are. Every draw is from `rng`, by a purpose of the transform's own: row i
        depends on that image's number and the step alone, and not on the batch around it.
        """


def transformed(
    images: Shaped[Tensor, "b 3 h w"], transforms: Sequence[Transform], rng: Rng
) -> Shaped[Tensor, "b 3 h w"]:
    """Images after each transform in turn."""
    for transform in transforms:
        images = transform(images, rng=rng)
    return images
