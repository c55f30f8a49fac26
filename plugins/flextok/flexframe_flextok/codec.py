"""The frozen KL autoencoder whose latents FlexTok works on (diffusers' AutoencoderKL)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.parts import Codec
from flexframe.rng import Rng
from flexframe_registry import Spec

from . import VAECodecConfig


class VAECodec(Codec):
    """Images to scaled latents and back."""

    def __init__(self, config: VAECodecConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        try:
            from diffusers import AutoencoderKL
        except ImportError:
            raise ImportError("codec 'vae' needs diffusers: pip install diffusers") from None
        levels = len(config.widths)
        self.vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.widths,
            layers_per_block=config.layers,
            latent_channels=config.channels,
            norm_num_groups=config.groups,
            use_quant_conv=config.quant_conv,
            use_post_quant_conv=config.quant_conv,
        )

    def posterior(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b c y x"], Float[Tensor, "b c y x"]]:
        """Mean and log-variance, unscaled."""
        with self.arithmetic(images):
            posterior = self.vae.encode(images.float() * 2 - 1).latent_dist
        return posterior.mean.float(), posterior.logvar.float()

    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        moments = self.moments(images)
        if moments is None:
            return self.posterior(images)[0] * self.config.scaling_factor
        return self.drawn(moments, rng=rng)

    def moments(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b m y x"] | None:
        return torch.cat(self.posterior(images), 1) if self.config.sample_posterior else None

    def drawn(self, moments: Float[Tensor, "b m y x"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        mean, logvar = moments.chunk(2, 1)
        mean = mean + (logvar / 2).exp() * rng.normal("codec/posterior", mean.shape[1:])
        return mean * self.config.scaling_factor

    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        with torch.autocast(latents.device.type, enabled=False):
            images = self.vae.decode(latents.float() / self.config.scaling_factor).sample
        return (images + 1) / 2
