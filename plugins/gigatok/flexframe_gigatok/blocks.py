"""GigaTok's blocks: queries that read a memory (arXiv 2504.08736, section 3), and its convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.attention import attend
from flexframe.nn.convolutional import GROUPS, ResidualBlock, level_widths, norm


class Attention(nn.Module):
    """Multi-head attention of queries to keys, which may lie elsewhere than the values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        query: Float[Tensor, "b n e"],
        key: Float[Tensor, "b m e"],
        value: Float[Tensor, "b m e"],
        seen: Bool[Tensor, ...] | None = None,
    ) -> Float[Tensor, "b n e"]:
        """The mixed values; `seen` is True where a query may attend to a key."""
        given = (self.query(query), self.key(key), self.value(value))
        q, k, v = (rearrange(each, "b n (h d) -> b h n d", h=self.heads) for each in given)
        out: Tensor = self.out(rearrange(attend(q, k, v, seen), "b h n d -> b n (h d)"))
        return out


class CrossBlock(nn.Module):
    """Attention among queries, attention to a memory, and a GELU feed-forward, each behind a norm of the queries and
    added to them. Positions are added to queries and keys at each attention, and never to values (DETR, arXiv
    2005.12872)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.own, self.cross = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Float[Tensor, "b n e"],
        memory: Float[Tensor, "b m e"],
        positions: Float[Tensor, "n e"],
        places: Float[Tensor, "m e"],
        seen: Bool[Tensor, ...] | None = None,
    ) -> Float[Tensor, "b n e"]:
        """The block's output.

        Args:
            positions: of the queries.
            places: of the memory.
            seen: True where a query may attend to the memory; None where it may everywhere.
        """
        y = self.norm1(x)
        x = x + self.own(y + positions, y + positions, y)
        x = x + self.cross(self.norm2(x) + positions, memory + places, memory, seen)
        out: Tensor = x + self.mlp(self.norm3(x))
        return out


def blocks(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """Residual blocks in a row, of which the first changes the number of channels."""
    return nn.Sequential(*(ResidualBlock(outputs if i else inputs, outputs, plain=True) for i in range(count)))


class Down(nn.Module):
    """Residual blocks of one resolution; then, but for the last, halving by a convolution that is padded behind."""

    def __init__(self, inputs: int, outputs: int, halve: bool) -> None:
        super().__init__()
        self.res = blocks(inputs, outputs, 2)
        self.conv = nn.Conv2d(outputs, outputs, 3, stride=2) if halve else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        x = self.res(x)
        return x if self.conv is None else self.conv(F.pad(x, (0, 1, 0, 1)))


class AdaptiveNorm(nn.Module):
    """Group norm whose scale and shift follow deviation and mean of what the network was given, channel by channel."""

    def __init__(self, style: int, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Linear(style, channels), nn.Linear(style, channels)
        nn.init.ones_(self.gamma.bias)  # a scale near zero would leave the next norm nothing but rounding

    def forward(self, x: Float[Tensor, "b c h w"], style: Float[Tensor, "b s y x"]) -> Float[Tensor, "b c h w"]:
        deviation = (style.var((2, 3)) + 1e-6).sqrt()
        scale, shift = self.gamma(deviation)[..., None, None], self.beta(style.mean((2, 3)))[..., None, None]
        return F.group_norm(x, GROUPS, eps=1e-6) * scale + shift


class Up(nn.Module):
    """Adaptive norm and residual blocks of one resolution; then, but for the last, doubling by a convolution whose
    channels become cells."""

    def __init__(self, style: int, inputs: int, outputs: int, double: bool) -> None:
        super().__init__()
        self.adaptive = AdaptiveNorm(style, inputs)
        self.res = blocks(inputs, outputs, 3)
        self.conv = nn.Conv2d(outputs, 4 * outputs, 3, padding=1) if double else None

    def forward(self, x: Float[Tensor, "b i h w"], style: Float[Tensor, "b s y x"]) -> Float[Tensor, "b o p q"]:
        x = self.res(self.adaptive(x, style))
        return x if self.conv is None else rearrange(self.conv(x), "b (p q c) h w -> b c (h p) (w q)", p=2, q=2)


class ConvDown(nn.Module):
    """Latents to a grid of `channels` values, 2 ** (len(multipliers) - 1) times as small along each axis."""

    def __init__(self, inputs: int, hidden: int, multipliers: Sequence[int], channels: int) -> None:
        super().__init__()
        widths = level_widths(hidden, multipliers)
        self.conv_in = nn.Conv2d(inputs, hidden, 3, padding=1)
        pairs = zip([hidden, *widths[:-1]], widths, strict=True)
        self.levels = nn.ModuleList(Down(a, b, halve=i < len(widths) - 1) for i, (a, b) in enumerate(pairs))
        self.mid = blocks(widths[-1], widths[-1], 2)
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b i y x"]) -> Float[Tensor, "b c h w"]:
        x = self.conv_in(x)
        for level in self.levels:
            x = level(x)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return out


class ConvUp(nn.Module):
    """A grid of `channels` values to latents."""

    def __init__(self, channels: int, hidden: int, multipliers: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = level_widths(hidden, multipliers)[::-1]
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.mid = blocks(widths[0], widths[0], 2)
        pairs = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.levels = nn.ModuleList(Up(channels, a, b, double=i < len(widths) - 1) for i, (a, b) in enumerate(pairs))
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], outputs, 3, padding=1)

    def forward(self, grid: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o y x"]:
        x = self.mid(self.conv_in(grid))
        for level in self.levels:
            x = level(x, grid)
        out: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return out
