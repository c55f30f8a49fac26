"""The identity codec: a model that works on pixels, or on latents that somebody else computed."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flexframe.parts import Codec
from flexframe.rng import Rng


class IdentityCodec(Codec):
    """Images are the latents. With other than 3 full-resolution channels it takes latents only, through the batch."""

    def encode(self, images: Float[Tensor, "b 3 h w"], *, rng: Rng) -> Float[Tensor, "b c y x"]:
        latents = self.config.latents(*images.shape[2:])
        if images.shape[1:] != (latents.channels, latents.height, latents.width):
            raise ValueError(
                f"this model works on {latents.channels}-channel latents and has no codec; "
                "feed `Batch.latents`, or give it a codec"
            )
        return images

    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
        if latents.shape[1] != 3:
            raise ValueError(f"this model gives {latents.shape[1]}-channel latents and has no codec to show them")
        return latents
