"""The transformer that encoder and decoder share: rotary positions, normed queries and keys, scaled branches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.attention import attend
from flexframe.nn.rotary import angles, rotated


def table(*shape: int) -> nn.Parameter:
    """A learned embedding of deviation width ** -0.5."""
    return nn.Parameter(torch.randn(*shape) * shape[-1] ** -0.5)


def init_weights(module: nn.Module) -> None:
    """Initialise one module: truncated normals of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def turns(parts: Sequence[int | tuple[int, int]], head: int, device: torch.device) -> Float[Tensor, "n planes 2"]:
    """Rotary positions of a sequence of tokens (a number of them) and grids (rows and columns). Each part begins where
    the numbers of all before it end; a token is on the diagonal.

    Args:
        head: channels of an attention head, half of which turn with the row.
    """
    positions, offset = [], 0
    for part in parts:
        if isinstance(part, tuple):
            rows, columns = (torch.arange(n, device=device) for n in part)
            places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        else:
            places = torch.arange(part, device=device)[:, None].expand(-1, 2)
        positions.append(places + offset)
        offset += len(places)
    return angles(torch.cat(positions).float(), (head // 2, head // 2))


class Attention(nn.Module):
    """Multi-head self-attention. Keys have no bias; queries and keys are normed by head, then turned."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.q_norm, self.k_norm = nn.LayerNorm(width // heads), nn.LayerNorm(width // heads)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n w"], turned: Float[Tensor, "n planes 2"], seen: Bool[Tensor, ...] | None
    ) -> Float[Tensor, "b n w"]:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = rearrange(F.linear(x, self.qkv.weight, bias), "b n (t h d) -> t b h n d", t=3, h=self.heads)
        query, key = (rotated(norm(part), turned) for norm, part in zip((self.q_norm, self.k_norm), qkv, strict=False))
        mixed = attend(query.to(qkv.dtype), key.to(qkv.dtype), qkv[2], seen)
        return self.proj(rearrange(mixed, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Attention and a GELU feed-forward of four times the width, each behind its norm and scaled by channel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gamma_1, self.gamma_2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        turned: Float[Tensor, "n planes 2"],
        seen: Bool[Tensor, ...] | None = None,
        merge: tuple[int, int, bool] | None = None,
    ) -> Float[Tensor, "b m w"]:
        """The block's output.

        Args:
            turned: rotary positions.
            seen: True where a query may attend to a key; None where all may.
            merge: cells that stand in front, how many neighbours of them become one, and whether what they become is
                taken from them: between attention and feed-forward the merged cells are put before the others.
        """
        x = x + self.gamma_1 * self.attn(self.norm1(x), turned, seen)
        if merge is not None:
            front, each, residual = merge
            cells, first = x[:, :front], x[:, :front:each]
            left = cells - first.repeat_interleave(each, 1) if residual else cells
            x = torch.cat([first, left, x[:, front:]], 1)
        return x + self.gamma_2 * self.mlp(self.norm2(x))
