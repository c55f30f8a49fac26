"""Blocks of FlowMo's two streams (arXiv 2503.11056, section 3.1): those of FLUX, with muP's scale of attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.nn.attention import attend
from flexframe.nn.rotary import angles, rotated

from . import TwoStreamConfig

Turns = tuple[Tensor, Tensor]
"""Rotations of tokens and of patches."""
Ends = Literal["tokens", "patches"] | None


def turns_of(config: TwoStreamConfig, tokens: int, grid: tuple[int, int], device: torch.device) -> Turns:
    """Rotations of tokens, which have their number on every axis, and of patches, which have row and column."""
    number, zero, rows, columns = (torch.arange(count, device=device).float() for count in (tokens, 1, *grid))
    axes = config.rotary()
    return angles(number[:, None].expand(-1, 3), axes), angles(torch.cartesian_prod(zero, rows, columns), axes)


def patched(x: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n p"]:
    """Patches row by row; values by row, column and channel within one.

    Raises:
        ValueError: the patches do not divide it.
    """
    if x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"latents of {x.shape[2]} x {x.shape[3]} do not divide into patches of {patch}")
    return rearrange(x, "b c (y p) (x q) -> b (y x) (p q c)", p=patch, q=patch)


class HeadNorm(nn.RMSNorm):
    """Root-mean-square norm of a head's channels, in float32 whatever the precision."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
        weight: Tensor = self.weight
        return F.rms_norm(x.float(), weight.shape, weight.float(), self.eps).to(x.dtype)


class Stream(nn.Module):
    """One stream's own weights in a block. One that ends there gives keys and values alone."""

    def __init__(self, width: int, heads: int, *, modulated: bool, ends: bool) -> None:
        super().__init__()
        self.heads, self.modulated, self.ends = heads, modulated, ends
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.in_proj = nn.Linear(width, 3 * width)
        self.key_norm = HeadNorm(width // heads)
        if modulated:
            self.modulation = nn.Linear(width, 6 * width)
            for each in (self.modulation.weight, self.modulation.bias):
                nn.init.zeros_(each.unflatten(0, (6, width))[2::3])  # gates
        if not ends:
            self.query_norm = HeadNorm(width // heads)
            self.out_proj = nn.Linear(width, width)
            hidden = 4 * width
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def changes(self, time: Float[Tensor, "b e"] | None) -> tuple[Tensor | float, ...]:
        """Shift, scale and gate of attention, then of the feed-forward."""
        if time is None or not self.modulated:
            return 0.0, 0.0, 1.0, 0.0, 0.0, 1.0
        chunks: tuple[Tensor, ...] = self.modulation(time)[:, None].chunk(6, -1)
        return chunks

    def enter(
        self, x: Float[Tensor, "b n e"], turns: Tensor, changes: tuple[Tensor | float, ...]
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Queries, if it goes on, keys and values."""
        inner = self.in_proj(self.norm(x) * (1 + changes[1]) + changes[0])
        query, key, value = inner.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key = rotated(self.key_norm(key), turns)
        return None if self.ends else rotated(self.query_norm(query), turns), key, value

    def leave(
        self, x: Float[Tensor, "b n e"], mixed: Float[Tensor, "b n e"], changes: tuple[Tensor | float, ...]
    ) -> Float[Tensor, "b n e"]:
        """Add what attention gave to what goes on of what came in."""
        _, _, gate, shift, scale, gate_mlp = changes
        x = x + gate * self.out_proj(mixed)
        return x + gate_mlp * self.mlp(self.norm(x) * (1 + scale) + shift)


class JointBlock(nn.Module):
    """Attention over tokens and patches together, all else apart; nothing comes out of a stream that ends.

    Args:
        ends: the stream of which nothing is needed behind the block.
    """

    def __init__(self, width: int, heads: int, *, modulated: bool, ends: Ends = None) -> None:
        super().__init__()
        self.scale = 8 / (width // heads)  # not the root: muP's (arXiv 2203.03466), equal at 64
        self.tokens = Stream(width, heads, modulated=modulated, ends=ends == "tokens")
        self.patches = Stream(width, heads, modulated=modulated, ends=ends == "patches")

    def forward(
        self,
        tokens: Float[Tensor, "b k e"],
        patches: Float[Tensor, "b n e"],
        turns: Turns,
        time: Float[Tensor, "b e"] | None = None,
    ) -> tuple[Float[Tensor, "b k e"] | None, Float[Tensor, "b n e"] | None]:
        streams, given = (self.tokens, self.patches), (tokens, patches)
        changes = [stream.changes(time) for stream in streams]
        entered = [stream.enter(*each) for stream, *each in zip(streams, given, turns, changes, strict=True)]
        query = torch.cat([query for query, _, _ in entered if query is not None], 2)
        key, value = (torch.cat([each[i] for each in entered], 2) for i in (1, 2))
        mixed = attend(query, key, value, scale=self.scale).transpose(1, 2).flatten(2)
        out, begin = [], 0
        for stream, x, change in zip(streams, given, changes, strict=True):
            part = mixed[:, begin : begin + x.shape[1]]
            out.append(None if stream.ends else stream.leave(x, part, change))
            begin += 0 if stream.ends else x.shape[1]
        return out[0], out[1]


def hold_norms(blocks: nn.Module) -> Callable[[], None]:
    """Take the norms of matrices that learn; the answer brings them back."""
    layers = [module for module in blocks.modules() if isinstance(module, nn.Linear)]
    weights = [layer.weight for layer in layers if layer.weight.requires_grad]
    norms = [weight.norm() for weight in weights]

    def restore() -> None:
        for weight, norm in zip(weights, norms, strict=True):
            weight.mul_(norm / weight.norm().clamp(min=1e-12))

    return restore
