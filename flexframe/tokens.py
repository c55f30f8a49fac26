"""The values that travel between parts.

Shape letters, the same everywhere: `b` batch, `c h w` channels, height, width, `k` token slots, `q` codebooks a slot,
`d` token width, `e` a part's own width. `keep` is True where a token is present.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Losses = Mapping[str, Tensor]
"""By name: a value a sample (`b`), or a scalar for a statistic of the whole batch."""


def prefix(lengths: Int[Tensor, " b"], slots: int) -> Bool[Tensor, "b k"]:
    """True for the first `lengths[i]` of `slots` positions of row i."""
    return torch.arange(slots, device=lengths.device) < lengths[:, None]


@dataclass(frozen=True, slots=True)
class Kept:
    """A masker's draw: `slots` positions travel on (fewer than all: really shorter), `keep` of them per row."""

    slots: int
    keep: Bool[Tensor, "b k"]


@dataclass(frozen=True, slots=True)
class Codes:
    """Codes, as a prior models and a token file holds them: integers, or a continuous quantizer's values."""

    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]
    keep: Bool[Tensor, "b k"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """A batch of token sequences, each a prefix of its slots."""

    values: Float[Tensor, "b k d"]
    keep: Bool[Tensor, "b k"]
    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Tokens present in each row."""
        return self.keep.sum(1)

    def truncate(self, length: int) -> Tokens:
        """At most the first `length` tokens of every row; the tensors are really shorter.

        Raises:
            ValueError: a length below 1.
        """
        if length < 1:
            raise ValueError(f"a sequence keeps at least one token, not {length}")
        return Tokens(self.values[:, :length], self.keep[:, :length], self.codes[:, :length])

    def __len__(self) -> int:
        return len(self.keep)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantizer's answer. `values`: straight-through in training, exactly `lookup(codes)` otherwise."""

    values: Float[Tensor, "b k d"]
    codes: Int[Tensor, "b k q"] | Float[Tensor, "b k d"]
    losses: Losses = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of a generation; `null` rows are unconditional."""

    null: Bool[Tensor, " b"]
    labels: Int[Tensor, " b"] | None = None
    embeddings: Float[Tensor, "b n e"] | None = None
    present: Bool[Tensor, "b n"] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A training batch. What was precomputed (latents, codes, features) is there already and is not computed again."""

    index: Int[Tensor, " b"]
    """Each sample's number in its data set: what its random draws depend on."""
    images: Float[Tensor, "b 3 h w"] | None = None
    latents: Float[Tensor, "b c y x"] | None = None
    codes: Codes | None = None
    condition: Condition | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def with_latents(self, latents: Float[Tensor, "b c y x"]) -> Batch:
        """This batch with these latents."""
        return replace(self, latents=latents)

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outcome of a forward pass of training: the model's own losses, and what objectives read."""

    losses: Losses
    reconstruction: Float[Tensor, "b c h w"] | None = None
    """The decoder's latents, in the codec's range."""
    logits: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """Features that the taps asked for."""
    codes: Codes | None = None
    """The batch's codes, for usage statistics."""
    tokens: Tokens | None = None
    """The tokens that the decoder was given, with their gradient."""
