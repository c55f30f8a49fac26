"""Losses a value a sample, so that their mean is the same however samples are spread over processes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs

from . import L1Config, MSEConfig


def difference(outputs: Outputs, batch: Batch, of: str) -> Float[Tensor, "b c h w"]:
    """Reconstruction, or what else the decoder made, minus target, in fp32.

    Raises:
        ValueError: the decoder gave no reconstruction, or the batch has no latents.
    """
    made = outputs.picture(of)
    if made is None or batch.latents is None:
        raise ValueError("this objective needs a decoder that reconstructs, and the batch's latents")
    return made.float() - batch.latents


class MSE(Objective):
    """Mean over a sample's channels and positions of the squared difference."""

    config: MSEConfig

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        return {"mse": difference(outputs, batch, self.config.of).square().mean((1, 2, 3))}


class L1(Objective):
    """Mean over a sample's channels and positions of the absolute difference."""

    config: L1Config

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        return {"l1": difference(outputs, batch, self.config.of).abs().mean((1, 2, 3))}
