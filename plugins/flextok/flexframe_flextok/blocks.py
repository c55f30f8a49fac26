"""The transformer that FlexTok's encoder and decoder share (facts: arXiv 2502.13967; adaLN-zero: arXiv 2212.09748).

Pre-norm, no biases, layer norms without affine computed in fp32, query-key norm, gated MLP.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.attention import attend


class LayerNorm(nn.Module):
    """Layer norm without affine, eps 1e-5, computed in fp32 whatever the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:], eps=1e-5).to(x.dtype)


def linear(width_in: int, width_out: int, *, bias: bool = True, zero: bool = False) -> nn.Linear:
    """A linear layer, Xavier-uniform with zero bias; `zero` starts it at zero altogether."""
    layer = nn.Linear(width_in, width_out, bias=bias)
    nn.init.zeros_(layer.weight) if zero else nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head self-attention with query-key norm; scale 8 / head_dim (muP), which is 1/sqrt at 64."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.wq, self.wk, self.wv, self.proj = (linear(width, width, bias=False) for _ in range(4))
        self.norm = LayerNorm()

    def forward(self, x: Float[Tensor, "b n e"], mask: Bool[Tensor, ...] | None) -> Float[Tensor, "b n e"]:
        q, k, v = (rearrange(w(x), "b n (h d) -> b h n d", d=self.head_dim) for w in (self.wq, self.wk, self.wv))
        q, k = self.norm(q).to(v.dtype), self.norm(k).to(v.dtype)
        out = attend(q, k, v, mask, scale=8 / self.head_dim)
        return self.proj(rearrange(out, "b h n d -> b n (h d)"))


class GatedMLP(nn.Module):
    """fc2(SiLU(fc1 x) * fc3 x), hidden int(8/3 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(2 * (4 * width) / 3)
        self.fc1, self.fc3 = linear(width, hidden, bias=False), linear(width, hidden, bias=False)
        self.fc2 = linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "b n e"]) -> Float[Tensor, "b n e"]:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class Block(nn.Module):
    """x += attention(norm x); x += mlp(norm x)."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm()
        self.attn, self.mlp = Attention(width, head_dim), GatedMLP(width)

    def forward(self, x: Float[Tensor, "b n e"], mask: Bool[Tensor, ...] | None) -> Float[Tensor, "b n e"]:
        x = x + self.attn(self.norm(x), mask)
        return x + self.mlp(self.norm(x))


class ModulatedBlock(nn.Module):
    """A block under adaLN-zero, modulated apart for the first `split` positions (patches) and the rest (registers).

    The six chunks are ordered gate_attn, gate_mlp, shift_attn, scale_attn, shift_mlp, scale_mlp: not DiT's order.
    """

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm()
        self.attn, self.mlp = Attention(width, head_dim), GatedMLP(width)
        self.modulation = linear(width, 2 * 6 * width, zero=True)

    def forward(
        self, x: Float[Tensor, "b n e"], time: Float[Tensor, "b e"], split: int, mask: Bool[Tensor, ...] | None
    ) -> Float[Tensor, "b n e"]:
        chunks = rearrange(self.modulation(time), "b (s m e) -> m s b 1 e", s=2, m=6)
        gate_attn, gate_mlp, shift_attn, scale_attn, shift_mlp, scale_mlp = chunks
        x = x + _by_part(self.attn(_modulate(self.norm(x), shift_attn, scale_attn, split), mask), gate_attn, split)
        return x + _by_part(self.mlp(_modulate(self.norm(x), shift_mlp, scale_mlp, split)), gate_mlp, split)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor, split: int) -> Tensor:
    first, rest = x[:, :split], x[:, split:]
    return torch.cat([first * (1 + scale[0]) + shift[0], rest * (1 + scale[1]) + shift[1]], 1)


def _by_part(x: Tensor, gate: Tensor, split: int) -> Tensor:
    return torch.cat([x[:, :split] * gate[0], x[:, split:] * gate[1]], 1)


def sincos(
    height: int, width: int, dim: int, within: tuple[int, int] | None = None
) -> Float[Tensor, "height width dim"]:
    """2D sine-cosine positions (MoCo v3's): the first dim/2 channels vary along the rows, the others along columns.

    Args:
        within: stretch the grid over this one (bilinear, corners aligned) in place of its own coordinates.
    """

    def table(rows: int, columns: int) -> Tensor:
        omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
        y, x = (torch.arange(n, dtype=torch.float64)[:, None] * omega for n in (rows, columns))
        y, x = (torch.cat([a.sin(), a.cos()], -1) for a in (y, x))
        return torch.cat([y[:, None].expand(-1, columns, -1), x.expand(rows, -1, -1)], -1).float()

    if within is None or within == (height, width):
        return table(height, width)
    return stretched(table(*within), height, width)


def stored_table(rows: int, columns: int, dim: int) -> Float[Tensor, "rows columns dim"]:
    """The reference's table of positions, to the last bit: cells are numbered column by column and read row by row.

    So it is `sincos` of a square grid, and of another grid a table of its own. In fp32 throughout, as the reference:
    a sine of a large angle is where the two precisions part (1e-6 at 16 cells).
    """
    omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    x, y = (torch.arange(n, dtype=torch.float32)[:, None] * omega for n in (columns, rows))
    x, y = (torch.cat([a.sin(), a.cos()], -1) for a in (x, y))
    return torch.cat([x.repeat_interleave(rows, 0), y.repeat(columns, 1)], -1).reshape(rows, columns, dim)


def stretched(table: Float[Tensor, "y x dim"], rows: int, columns: int) -> Float[Tensor, "rows columns dim"]:
    """A table over another grid: bilinear, corners aligned."""
    grid = rearrange(table, "y x d -> 1 d y x")
    resized = F.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=True)
    return rearrange(resized, "1 d y x -> y x d")


class PatchEmbed(nn.Module):
    """Latents to a sequence of patch embeddings with 2D positions.

    Args:
        grid: the model's own rows and columns of patches.
        stretch: whether another grid is stretched over the table, or has the coordinates of its own cells.
        table: rows and columns of the stored table that positions are taken from; the model's own grid if None.
    """

    positions: Tensor

    def __init__(
        self,
        channels: int,
        width: int,
        patch: int,
        grid: tuple[int, int],
        *,
        stretch: bool,
        table: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.grid, self.stretch, self.table = patch, grid, stretch, table
        self.proj = linear(channels * patch * patch, width)
        self.register_buffer("positions", self.place(*grid, width), persistent=False)

    def place(self, rows: int, columns: int, width: int) -> Float[Tensor, "rows columns width"]:
        """Positions of a grid of patches.

        Raises:
            ValueError: the stored table is smaller than the grid and is not stretched.
        """
        if self.table is None:
            return sincos(rows, columns, width, self.grid if self.stretch else None)
        whole = stored_table(*self.table, width)
        if (rows, columns) == self.table:
            return whole
        if self.stretch:
            return stretched(whole, rows, columns)
        if rows > self.table[0] or columns > self.table[1]:
            most = " x ".join(map(str, self.table))
            raise ValueError(
                f"{rows} x {columns} patches have no positions in a table of {most}; set `positions: interpolate`"
            )
        return whole[:rows, :columns]

    def forward(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b n e"]:
        """Patches with positions, row by row.

        Raises:
            ValueError: the patches do not divide the latents.
        """
        height, width = latents.shape[2] // self.patch, latents.shape[3] // self.patch
        if latents.shape[2] % self.patch or latents.shape[3] % self.patch:
            raise ValueError(f"latents of {tuple(latents.shape[2:])} do not divide into patches of {self.patch}")
        positions = self.positions
        if (height, width) != self.grid:
            positions = self.place(height, width, positions.shape[-1]).to(positions)
        patches = rearrange(latents, "b c (y p) (x q) -> b (y x) (p q c)", p=self.patch, q=self.patch)
        return self.proj(patches) + positions.flatten(0, 1)
