"""A pre-norm transformer in the manner of ViT and CLIP, and what learned tokens behind its patches may see."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.attention import attend


class Attention(nn.Module):
    """Multi-head self-attention, as in `nn.MultiheadAttention`. `bias` is that of queries, keys and values."""

    def __init__(self, width: int, heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj = nn.Linear(width, 3 * width, bias=bias)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        seen: Bool[Tensor, ...] | None = None,
        drops: Int[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The mixed values; weights are dropped, a share `dropout`, by the numbers `drops`."""
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, seen, dropout=self.dropout, drops=drops)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a GELU feed-forward of four times the width, each behind its norm and added to its input.

    Args:
        eps: of the norms.
    """

    def __init__(self, width: int, heads: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        seen: Bool[Tensor, ...] | None = None,
        weights: Float[Tensor, "b 2"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            seen: True where a query may attend to a key; None where all may.
            weights: factors of a row's two branches, for stochastic depth.
        """
        if weights is None:
            x = x + self.attn(self.ln_1(x), seen)
            out: Tensor = x + self.mlp(self.ln_2(x))
        else:
            first, second = weights.to(x.dtype)[..., None, None].unbind(1)
            x = x + first * self.attn(self.ln_1(x), seen)
            out = x + second * self.mlp(self.ln_2(x))
        return out


def causal_registers(patches: int, registers: int, device: torch.device) -> Bool[Tensor, "n n"]:
    """True where query (row) may see key: every patch is seen by all, register i by registers from i on."""
    position = torch.arange(patches + registers, device=device)
    return (position < patches) | (position <= position[:, None])
