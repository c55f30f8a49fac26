"""The transformer that encoder and decoder share: pre-norm blocks in the manner of CLIP, and their initialisation."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.attention import attend
from flexframe.nn.positions import resize_positions
from flexframe_registry import Spec


class Attention(nn.Module):
    """Multi-head self-attention, as in `nn.MultiheadAttention`. `bias` is that of queries, keys and values."""

    def __init__(self, width: int, heads: int, *, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj = nn.Linear(width, 3 * width, bias=bias)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n w"], keys: Bool[Tensor, "b 1 1 n"] | None = None) -> Float[Tensor, "b n w"]:
        query, key, value = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = attend(query, key, value, keys, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a GELU feed-forward of four times the width, each behind its norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b n w"], keys: Bool[Tensor, "b 1 1 n"] | None = None) -> Float[Tensor, "b n w"]:
        """`keys` is True where a position may be attended to; None where all may."""
        x = x + self.attn(self.ln_1(x), keys)
        return x + self.mlp(self.ln_2(x))


def embedding(*shape: int) -> nn.Parameter:
    """A learned embedding of deviation width ** -0.5."""
    return nn.Parameter(torch.randn(*shape) * shape[-1] ** -0.5)


def adapt_positions(state: Mapping[str, Tensor], there: Spec, here: Spec, patch: int) -> dict[str, Tensor]:
    """A part's tensors with its grid's positions stretched to another image size; the class token's stays."""
    name = "positional_embedding"
    before, after = ((s.latents.height // patch, s.latents.width // patch) for s in (there, here))
    if name not in state or before == after or len(state[name]) != 1 + before[0] * before[1]:
        return dict(state)
    own, cells = state[name][:1], state[name][1:]
    return {**state, name: torch.cat([own, resize_positions(cells, before, after)])}


def init_weights(module: nn.Module) -> None:
    """Initialise one module, truncated normals of deviation 0.02, zero biases; `in_proj` as `nn.MultiheadAttention`."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Attention):
        nn.init.xavier_uniform_(module.in_proj.weight)
