"""The latent-token encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.ranges import Rescale
from flexframe.nn.transformer import Block
from flexframe.parts import Encoder
from flexframe_registry import Spec

from . import LatentTokenEncoderConfig
from .blocks import adapt_positions, embedding, init_weights


class LatentTokenEncoder(Encoder):
    """`[class | patches | latent tokens]` through a transformer; the latent tokens are the features.

    Attention is full, and all `spec.tokens.length` latent tokens are always encoded, so that a token is the same
    whether or not those behind it are kept. The reference's last 1x1 convolution is the quantizer's projection here.
    """

    config: LatentTokenEncoderConfig

    def __init__(self, config: LatentTokenEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, patch, length = config.width, config.patch, spec.tokens.length
        patches = (spec.latents.height // patch) * (spec.latents.width // patch)
        self.rescale = Rescale(spec.latents, (0.0, 1.0))
        self.patch_embed = nn.Conv2d(spec.latents.channels, width, patch, patch)
        self.class_embedding = embedding(1, width)
        self.positional_embedding = embedding(1 + patches, width)
        self.latent_tokens = embedding(length, width)
        self.latent_token_positional_embedding = embedding(length, width)
        self.ln_pre = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.ln_post = nn.LayerNorm(width)
        self.apply(init_weights)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Positions of another image size are stretched to this one's grid."""
        return adapt_positions(state, spec, self.spec, self.config.patch)

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        own = (self.spec.latents.channels, self.spec.latents.height, self.spec.latents.width)
        if latents.shape[1:] != own:
            raise ValueError(f"this encoder reads latents of shape {own}, not {tuple(latents.shape[1:])}; resize them")
        batch, length = len(latents), self.spec.tokens.length
        patches = self.patch_embed(self.rescale(latents)).flatten(2).transpose(1, 2)
        grid = torch.cat([self.class_embedding.expand(batch, 1, -1), patches], 1) + self.positional_embedding
        tokens = (self.latent_tokens + self.latent_token_positional_embedding).expand(batch, -1, -1)
        x = self.ln_pre(torch.cat([grid, tokens], 1))
        for block in self.blocks:
            x = block(x)
        features = self.ln_post(x[:, -length:])
        if self.config.legacy:
            # the published two-stage models read the K x w memory as w x K: a token's channels come from many tokens
            features = features.reshape(batch, self.config.width, length).transpose(1, 2)
        return features[:, : keep.shape[1]]
