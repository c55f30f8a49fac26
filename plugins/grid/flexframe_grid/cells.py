"""A codec's latents as tokens, and back, so that the codec is a tokenizer by itself."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from flexframe.parts import Decoder, Encoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import CellsDecoderConfig, CellsEncoderConfig


class CellsEncoder(Encoder):
    """See `CellsEncoderConfig`. All cells are read, and as many given as there are slots in `keep`."""

    config: CellsEncoderConfig

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        own = (self.spec.latents.channels, self.spec.latents.height, self.spec.latents.width)
        if latents.shape[1:] != own:
            raise ValueError(f"this encoder reads latents of shape {own}, not {tuple(latents.shape[1:])}; resize them")
        side = self.config.patch
        cells = rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=side, q=side)
        return cells[:, : keep.shape[1]]


class CellsDecoder(Decoder):
    """See `CellsDecoderConfig`. Nothing of it is learned, a mask token neither."""

    config: CellsDecoderConfig

    def __init__(self, config: CellsDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.absent = 0.0 if spec.latents.range is None else sum(spec.latents.range) / 2

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """The latents; there are no taps.

        Raises:
            ValueError: a tap is asked for.
        """
        self.check_taps(taps)
        return Outputs({}, self._latents(tokens))

    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The latents; the same for every `rng`, and at the model's own `size` only.

        Raises:
            ValueError: `size` is not the model's own.
        """
        self.check_size(size, "its grid is fixed")
        return self._latents(tokens)

    def _latents(self, tokens: Tokens) -> Float[Tensor, "b c y x"]:
        side, rows = self.config.patch, self.spec.latents.height // self.config.patch
        values = torch.where(tokens.keep[..., None], tokens.values, self.absent)
        cut = values.new_full((len(values), self.spec.tokens.length - values.shape[1], values.shape[2]), self.absent)
        cells = torch.cat([values, cut], 1)
        latents = rearrange(cells, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, p=side, q=side)
        return latents.contiguous()  # to a codec, whose sums hang on the layout, these are its own to the bit
