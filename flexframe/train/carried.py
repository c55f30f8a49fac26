"""Measures of what tokens carry, from two passes over a batch: by its own tokens, and by another image's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from flexframe.tokens import Codes, Outputs


def carried(own: Outputs, other: Outputs, latents: Tensor, codes: Codes) -> Mapping[str, Tensor]:
    """Numbers that two passes tell of a batch, by its own tokens and by those of the image before.

    Returns:
        `tokens`: what another image's tokens change, as a share of the error; for a reconstruction, of the variance.
        `error`: a reconstruction's error over the variance of the images, which is the mean image's.
        `bits`: the mean entropy, over images, of the code at a place; at most that of as many codes as images.
    """
    values: dict[str, Tensor] = {}
    if own.reconstruction is not None and other.reconstruction is not None:
        variance = latents.float().var(0).mean().clamp(min=1e-12)
        picture = own.reconstruction.float()
        values["tokens"] = (picture - other.reconstruction.float()).square().mean() / (2 * variance)
        values["error"] = (picture - latents.float()).square().mean() / variance
    elif own.losses and other.losses:
        ours, theirs = (sum(loss.float().mean() for loss in each.losses.values()) for each in (own, other))
        values["tokens"] = (theirs - ours) / torch.as_tensor(theirs).clamp(min=1e-12)
    elif own.logits is not None and other.logits is not None:
        logits = own.logits.float()
        values["tokens"] = (logits - other.logits.float()).square().mean() / (2 * logits.var()).clamp(min=1e-12)
    if not codes.codes.is_floating_point():
        equal = (codes.codes[:, None] == codes.codes).all(-1).float()
        values["bits"] = equal.mean(1).log2().mean().abs()
    return values
