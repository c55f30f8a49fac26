"""Scaled dot-product attention, by the quicker way where torch's own choice is slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flexframe.nn.dropout import dropped

HALVES = (torch.bfloat16, torch.float16)
SHORT = 256
"""Up to so many keys the CPU's backward pass of 16-bit attention takes longer than that of fp32; 4 to 8 times at 16 to
96 keys, as long at 384 (torch 2.11.0 to 2.14.1)."""


def attend(
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b h m d"],
    value: Float[Tensor, "b h m d"],
    mask: Bool[Tensor, ...] | Float[Tensor, ...] | None = None,
    *,
    dropout: float = 0.0,
    drops: Int[Tensor, "b 2"] | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Tensor, "b h n d"]:
    """Attend as `scaled_dot_product_attention` does; on a CPU, short sequences in training are attended to in fp32.

    Args:
        mask: True where a query may see a key, or what is added to the logits.
        dropout: share of weights that are dropped, by the numbers `drops`; none are without these.
        scale: of the logits; 1/sqrt(d) if None.
    """
    if dropout and drops is not None:
        return _dropping(query, key, value, mask, dropout, drops, causal, scale)
    taught = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if query.device.type != "cpu" or query.dtype not in HALVES or not taught or key.shape[2] > SHORT:
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scale)
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    with torch.autocast("cpu", enabled=False):
        mixed = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), mask, is_causal=causal, scale=scale
        )
    return mixed.to(value.dtype)


def _dropping(
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b h m d"],
    value: Float[Tensor, "b h m d"],
    mask: Bool[Tensor, ...] | Float[Tensor, ...] | None,
    dropout: float,
    drops: Int[Tensor, "b 2"],
    causal: bool,
    scale: float | None,
) -> Float[Tensor, "b h n d"]:
    """Attention with its weights in memory: torch's own drops them by its global generator alone."""
    logits = (query @ key.mT).float() * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        logits = logits + mask if mask.is_floating_point() else logits.masked_fill(~mask, -torch.inf)
    return dropped(logits.softmax(-1), dropout, drops).to(value.dtype) @ value
