"""Widths of a model, computed once from its config: what every part needs beyond its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """Latents, as the codec hands them to the encoder: `b channels height width`, bounded by `range` or unbounded."""

    channels: int
    height: int
    width: int
    range: tuple[float, float] | None = (0.0, 1.0)
    images: bool = False
    """True where they are the images themselves, in [0, 1], so that a reconstruction of one is of the other."""


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """Tokens that travel: at most `length` slots of `dim` values, `codebooks` codes each of `codebook_size` entries.

    `codebook_size` is None for a continuous quantizer, whose codes are its values.
    """

    length: int
    dim: int
    codebooks: int = 1
    codebook_size: int | None = None
    masked: bool = False
    """True where training puts a learned mask token in an absent one's place, for decoders that have one; else, and in
    all others, an absent token is not there at all."""


@dataclass(frozen=True, slots=True)
class Spec:
    """Every width a part needs beyond its own config. Follows from the tokenizer's config alone."""

    latents: LatentSpec
    features: int
    """The encoder's own width `e`; the quantizer projects from it."""
    tokens: TokenSpec
    taps: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Width of the decoder's features by tap, and of the encoder's by `encoder.` and its tap."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels of the model's images; None where they are those of the latents."""

    @property
    def images(self) -> LatentSpec:
        """Images, for an encoder that reads them."""
        return LatentSpec(3, *(self.image_size or (self.latents.height, self.latents.width)), (0.0, 1.0), images=True)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """Texts as a conditioner gives them: at most `length` vectors `width` wide."""

    length: int
    width: int
    pooled: int | None = None
    """Width of the one vector of the whole text; None where there is none."""


@dataclass(frozen=True, slots=True)
class CodesSpec:
    """The codes that a prior models: `length` slots of `codebooks` integers below `codebook_size`, or of `dim` values.

    Values come to a prior, and go from it, at mean 0 and deviation 1, as far as their generator knows these.
    """

    length: int
    codebook_size: int | None
    """None for continuous tokens."""
    codebooks: int = 1
    classes: int | None = None
    """Class labels it is conditioned on, 0..classes-1; None without."""
    text: TextSpec | None = None
    """Texts it is conditioned on; None without."""
    dim: int | None = None
    """Values of a continuous token; None for integer codes."""

    @property
    def entries(self) -> int:
        """Entries of the codebook.

        Raises:
            ValueError: there is none, for tokens are continuous.
        """
        if self.codebook_size is None:
            raise ValueError("continuous tokens have no codebook")
        return self.codebook_size

    @property
    def values(self) -> int:
        """Values of a continuous token.

        Raises:
            ValueError: it has none, for codes are integers.
        """
        if self.dim is None:
            raise ValueError("integer codes have no values")
        return self.dim


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """An entry of a batch's features for an objective: `shape` values a sample."""

    shape: tuple[int, ...]
    below: int | None = None
    """Whole numbers from 0 to below this one; None for real numbers."""
