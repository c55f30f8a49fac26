"""A convolutional encoder and decoder: residual blocks at each resolution, no attention (Chang et al., CVPR 2022)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import gcd

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


def norm(channels: int) -> nn.GroupNorm:
    """Group norm, as it stands before every convolution."""
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


def level_widths(hidden: int, multipliers: Sequence[int]) -> list[int]:
    """Channels of each resolution, the finest first.

    Raises:
        ValueError: `hidden` cannot be split into the norm's groups.
    """
    if hidden % GROUPS:
        raise ValueError(f"hidden is a multiple of {GROUPS}, which is the number of norm groups, not {hidden}")
    return [hidden * m for m in multipliers]


def shape_of(shapes: Mapping[str, Sequence[int]]) -> tuple[int, tuple[int, ...], int]:
    """Base width, multipliers and blocks of the encoder or decoder whose tensors have these shapes.

    Raises:
        ValueError: there are no tensors of such a network, or no whole multipliers give their widths.
    """
    levels = [name for name in shapes if re.fullmatch(r"(down|up)\.\d+\.block\.0\.conv1\.weight", name)]
    if not levels:
        raise ValueError("has no tensors down.*.block.* or up.*.block.*, so it is no network of residual blocks")
    widths = [shapes[name][0] for name in sorted(levels, key=lambda name: int(name.split(".")[1]))]
    side = levels[0].split(".")[0]
    blocks = sum(re.fullmatch(rf"{side}\.0\.block\.\d+\.conv1\.weight", name) is not None for name in shapes)
    hidden = shapes["conv_in.weight"][0] if side == "down" and "conv_in.weight" in shapes else gcd(*widths)
    if not hidden or any(width % hidden for width in widths):
        raise ValueError(f"has levels of {widths} channels, which are no multiples of its base width {hidden}")
    return hidden, tuple(width // hidden for width in widths), blocks


def residual_blocks(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Blocks in a row, of which the first changes the number of channels."""
    return nn.Sequential(*(ResidualBlock(outputs if i else inputs, outputs) for i in range(blocks)))


class ResidualBlock(nn.Module):
    """Two pre-activated 3x3 convolutions, and a skip.

    Where the channels change, the skip comes from the processed branch and not from the input: so the published
    weights were trained, and so `nin_shortcut` maps `outputs` to `outputs`. A `plain` block's comes from the input, and
    its convolutions have biases (arXiv 2012.09841).
    """

    def __init__(self, inputs: int, outputs: int, *, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=plain)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=plain)
        skipped = inputs if plain else outputs
        self.nin_shortcut = nn.Conv2d(skipped, outputs, 1, bias=plain) if inputs != outputs else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        y: Tensor = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x if self.plain else y))


class DownLevel(nn.Module):
    """The residual blocks of one resolution; then, but for the last, halving by the mean of 2 x 2."""

    def __init__(self, inputs: int, outputs: int, blocks: int, halve: bool) -> None:
        super().__init__()
        self.block = residual_blocks(inputs, outputs, blocks)
        self.halve = halve

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        x = self.block(x)
        return F.avg_pool2d(x, 2) if self.halve else x


class UpLevel(nn.Module):
    """The residual blocks of one resolution; then, but for the last, nearest-neighbour doubling and a convolution."""

    def __init__(self, inputs: int, outputs: int, blocks: int, double: bool) -> None:
        super().__init__()
        self.block = residual_blocks(inputs, outputs, blocks)
        self.upsample_conv = nn.Conv2d(outputs, outputs, 3, padding=1) if double else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        x = self.block(x)
        if self.upsample_conv is None:
            return x
        return convolved_double(x, self.upsample_conv)


FOLDED = 1024
"""Cells from which on folding a convolution's weights costs less than it saves."""


def convolved_double(x: Float[Tensor, "b i h w"], conv: nn.Conv2d) -> Float[Tensor, "b o y x"]:
    """A 3x3 convolution of `x` doubled by nearest neighbours.

    Each of the four cells that one cell becomes sees 2 x 2 cells of `x`, with sums of the weights: four ninths of the
    products and no doubled input. So it is done on a CPU in use, in 0.68 of the time, equal to rounding.
    """
    height, width = x.shape[2:]
    if x.device.type != "cpu" or torch.is_grad_enabled() or height * width < FOLDED:
        doubled: Tensor = conv(F.interpolate(x, scale_factor=2.0))
        return doubled
    rows = _folded(conv.weight, 2)
    weights = torch.stack([part for row in rows for part in _folded(row, 3)], 1).flatten(0, 1)  # o, then 2 x 2 places
    seen = F.conv2d(x, weights, padding=1).reshape(len(x), conv.out_channels, 2, 2, height + 1, width + 1)
    out = seen.new_empty(len(x), conv.out_channels, height, 2, width, 2)
    for row in range(2):
        for column in range(2):
            out[:, :, :, row, :, column] = seen[:, :, row, column, row : row + height, column : column + width]
    made: Tensor = out.flatten(4).flatten(2, 3)
    return made if conv.bias is None else made.add_(conv.bias.to(made.dtype)[:, None, None])


def _folded(weight: Float[Tensor, "o i y x"], axis: int) -> tuple[Tensor, Tensor]:
    """Weights of the first and of the second of two equal cells, of three weights along an axis."""
    first, middle, last = weight.chunk(3, axis)
    return torch.cat([first, middle + last], axis), torch.cat([first + middle, last], axis)


class ConvEncoder(nn.Module):
    """An image to a grid of features 2 ** (len(multipliers) - 1) times as small along each axis.

    The published network ends in one more 1x1 convolution, to the width of a code vector.

    Args:
        channels: of the image.
        hidden: base width, a multiple of 32.
        multipliers: width of each resolution in units of `hidden`, the finest first.
        blocks: residual blocks at each resolution.
    """

    def __init__(self, channels: int, hidden: int, multipliers: Sequence[int], blocks: int) -> None:
        super().__init__()
        widths = level_widths(hidden, multipliers)
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            DownLevel(inputs, outputs, blocks, halve=i < last)
            for i, (inputs, outputs) in enumerate(zip([hidden, *widths[:-1]], widths, strict=True))
        )
        self.mid = residual_blocks(widths[-1], widths[-1], blocks)
        self.norm_out = norm(widths[-1])

    def forward(self, images: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e h w"]:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return F.silu(self.norm_out(self.mid(x)))


class ConvDecoder(nn.Module):
    """A grid of code vectors to an image 2 ** (len(multipliers) - 1) times as large.

    Args:
        z: channels of a code vector.
        hidden: base width, a multiple of 32.
        multipliers: width of each resolution in units of `hidden`, the finest first.
        blocks: residual blocks at each resolution.
        out: channels of the image.
    """

    def __init__(self, z: int, hidden: int, multipliers: Sequence[int], blocks: int, out: int) -> None:
        super().__init__()
        widths = level_widths(hidden, multipliers)
        self.conv_in = nn.Conv2d(z, widths[-1], 3, padding=1)
        self.mid = residual_blocks(widths[-1], widths[-1], blocks)
        coarser = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            UpLevel(inputs, outputs, blocks, double=i > 0)
            for i, (inputs, outputs) in enumerate(zip(coarser, widths, strict=True))
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out, 3, padding=1)

    def forward(self, codes: Float[Tensor, "b z h w"]) -> Float[Tensor, "b c y x"]:
        x = self.mid(self.conv_in(codes))
        for level in reversed(self.up):
            x = level(x)
        images: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return images
