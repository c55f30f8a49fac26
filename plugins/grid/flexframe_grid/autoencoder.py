"""A trained grid tokenizer's networks as a codec, so that other models work on its latents."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.convolutional import ConvDecoder, ConvEncoder
from flexframe.parts import Codec
from flexframe.rng import Rng
from flexframe_registry import Spec

from . import AutoencoderCodecConfig


class AutoencoderCodec(Codec):
    """Images to scaled latents and back. Nothing is drawn."""

    config: AutoencoderCodecConfig

    def __init__(self, config: AutoencoderCodecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        shape, folded = (config.hidden, config.multipliers, config.blocks), 3 * config.stem**2
        self.encoder = ConvEncoder(folded, *shape)
        self.project = nn.Linear(config.hidden * config.multipliers[-1], config.channels)
        self.decoder = ConvDecoder(config.channels, *shape, folded)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """The means, of a projection to means and log variances."""
        whole = 2 * self.config.channels
        return {
            name: value[: self.config.channels] if name.startswith("project.") and len(value) == whole else value
            for name, value in state.items()
        }

    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        with self.arithmetic(images):
            features = self.encoder(F.pixel_unshuffle(images.float(), self.config.stem))
            means = self.project(features.movedim(1, -1)).movedim(-1, 1)
        return means.float() * self.config.scaling_factor

    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        with torch.autocast(latents.device.type, enabled=False):
            folded = self.decoder(latents.float() / self.config.scaling_factor)
        return F.pixel_shuffle(folded, self.config.stem)
