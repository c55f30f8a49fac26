"""MaskGIT-VQGAN's two networks as an encoder and a decoder of token sequences."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.convolutional import ConvDecoder, ConvEncoder
from flexframe.nn.ranges import Rescale
from flexframe.parts import Decoder, Encoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import VQGANDecoderConfig, VQGANEncoderConfig

RANGE = (0.0, 1.0)


class GridEncoder(Encoder):
    """The grid's cells, row by row, are the features.

    All cells are always encoded. The reference's last 1x1 convolution is the quantizer's projection here.
    """

    config: VQGANEncoderConfig

    def __init__(self, config: VQGANEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.rescale = Rescale(spec.latents, RANGE)
        folded = spec.latents.channels * config.stem**2
        self.net = ConvEncoder(folded, config.hidden, config.multipliers, config.blocks)

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        own = (self.spec.latents.channels, self.spec.latents.height, self.spec.latents.width)
        if latents.shape[1:] != own:
            raise ValueError(f"this encoder reads latents of shape {own}, not {tuple(latents.shape[1:])}; resize them")
        folded = F.pixel_unshuffle(self.rescale(latents), self.config.stem)
        features = rearrange(self.net(folded), "b e h w -> b (h w) e")
        return features[:, : keep.shape[1]]


class GridDecoder(Decoder):
    """Tokens in their cells, decoded to the image.

    Where training masks tokens, a learned one stands in an absent one's cell. Otherwise the cell is zero: to a
    convolution that is padded with zeros, it lies outside the image.
    """

    config: VQGANDecoderConfig

    def __init__(self, config: VQGANDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        dim, channels = spec.tokens.dim, spec.latents.channels * config.stem**2
        self.grid = config.grid(spec)
        self.rescale = Rescale(spec.latents, RANGE)
        self.mask_token = nn.Parameter(torch.randn(dim) * dim**-0.5) if spec.tokens.masked else None
        self.net = ConvDecoder(dim, config.hidden, config.multipliers, config.blocks, channels)

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """The reconstruction; there are no taps.

        Raises:
            ValueError: a tap is asked for.
        """
        self.check_taps(taps)
        return Outputs({}, self._run(tokens))

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
        """The reconstruction; the same for every `rng`, and at the model's own `size` only.

        Raises:
            ValueError: `size` is not the model's own.
        """
        self.check_size(size, "its grid is fixed")
        return self._run(tokens)

    def cells(self, tokens: Tokens) -> Float[Tensor, "b d h w"]:
        """Every token in its cell, and what stands for the absent ones in theirs."""
        values, length = tokens.values, self.spec.tokens.length
        absent = values.new_zeros(values.shape[2]) if self.mask_token is None else self.mask_token.to(values.dtype)
        cut = absent.expand(len(tokens), length - tokens.keep.shape[1], -1)
        filled = torch.cat([torch.where(tokens.keep[..., None], values, absent), cut], 1)
        return rearrange(filled, "b (h w) d -> b d h w", h=self.grid[0])

    def _run(self, tokens: Tokens) -> Float[Tensor, "b c y x"]:
        return self.rescale.inverse(F.pixel_shuffle(self.net(self.cells(tokens)), self.config.stem))
