"""The contract of allocators: the number of tokens that each image gets at use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from flexframe.parts import Part
from flexframe.rng import Rng
from flexframe_registry.kinds import AllocatorConfig

if TYPE_CHECKING:
    from flexframe.models.tokenizer import Tokenizer


class Allocator(Part[AllocatorConfig]):
    """A rule for how many tokens each image gets at use, built as `(config, tokenizer.spec)`; never part of a model."""

    @abstractmethod
    def choose(self, tokenizer: Tokenizer, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Int[Tensor, " b"]:
        """A length in 1..K for each image in [0, 1]. It depends on that image and its row of `rng` alone."""

    def rests_on(self) -> Mapping[str, Any]:
        """Plain data that its choice rests on beside its config: hashes of what it read from files."""
        return {}
