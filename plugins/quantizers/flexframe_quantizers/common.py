"""Helpers of all quantizers: the projection, full precision, and means over the tokens that are present."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.levels import ByLevel

from .soft_configs import EntropyFields


def projection(features: int, dim: int) -> nn.Linear:
    """Build the linear map from the encoder's width to the quantizer's."""
    linear = nn.Linear(features, dim)
    initialise(linear)
    return linear


def projections(length: int, features: int, dim: int) -> ByLevel:
    """Build a linear map of that kind for each level of slots."""
    levels = ByLevel(length, features, dim)
    for linear in levels.maps:
        initialise(linear)
    return levels


def initialise(linear: nn.Module) -> None:
    """Start a linear map from small normal weights and no bias."""
    assert isinstance(linear, nn.Linear)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)


def full_precision(like: Tensor) -> torch.autocast:
    """A region without autocast: in bfloat16 neighbouring codes are one number."""
    return torch.autocast(like.device.type, enabled=False)


def normalize(z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """Onto the unit sphere; a zero vector stays zero, with a finite gradient."""
    return F.normalize(z, dim=-1, eps=1e-8)


def straight_through(z: Float[Tensor, "*b d"], values: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`values` forward, the gradient of `z` backward."""
    return z + (values - z).detach()


def evaluated(z: Float[Tensor, "*b d"], values: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`values` exactly, as evaluation gives them; with the gradient of `z` where it has one."""
    return values + (z - z.detach()) if z.requires_grad else values


def present_mean(loss: Float[Tensor, "b k"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Each sample's mean over its present tokens."""
    return torch.where(keep, loss, 0).sum(1) / keep.sum(1).clamp(min=1)


def entropies(
    logits: Float[Tensor, "b k v"], keep: Bool[Tensor, "b k"], floor: float = 0.0
) -> tuple[Float[Tensor, "b k"], Float[Tensor, ""]]:
    """Entropies in nats of each token's distribution over entries, and of their mean over all present tokens.

    Args:
        floor: added to a probability under the logarithm of the mean's.
    """
    chance = logits.softmax(-1)
    of_token = -(chance * logits.log_softmax(-1)).sum(-1)
    mean = torch.where(keep[..., None], chance, 0).sum((0, 1)) / keep.sum().clamp(min=1)
    return of_token, -(mean * (mean + floor).clamp(min=1e-20).log()).sum()


def entropy_losses(config: EntropyFields, logits: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """`token_entropy` (to be low) and `codebook_entropy` (negative: to be high; of the batch, one number), weighted."""
    if not config.entropy:
        return {}
    of_token, of_batch = entropies(logits / config.entropy_temperature, keep, config.entropy_floor)
    return {
        "token_entropy": config.entropy * present_mean(of_token, keep),
        "codebook_entropy": -config.entropy * config.diversity * of_batch,
    }
