"""A transformer over patches that reads scenes' attributes: the architecture of the second judge."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexframe_standard.sources.scenes_config import WORDS


class ScenePatches(nn.Module):
    """A transformer over an 8 x 8 grid of patches and, for each attribute, a token whose output its head reads.

    Three strided convolutions embed the patches (Xiao et al. 2021, "Early Convolutions Help Transformers See Better",
    arXiv:2106.14881); everything between them and the heads is attention and perceptrons (Dosovitskiy et al. 2020,
    arXiv:2010.11929). It has no residual convolutions, no coordinates, no pooling and no batch statistics, all of
    which the first judge (`SceneNet`) has.
    """

    WIDTH: ClassVar[int] = 96
    HEADS: ClassVar[int] = 4
    DEPTH: ClassVar[int] = 2
    GRID: ClassVar[int] = 8

    def __init__(self) -> None:
        super().__init__()
        width = self.WIDTH
        self.embed = nn.Sequential(
            nn.Conv2d(3, width // 4, 4, 2, 1), nn.GroupNorm(4, width // 4), nn.GELU("tanh"),
            nn.Conv2d(width // 4, width // 2, 5, 2, 2), nn.GroupNorm(4, width // 2), nn.GELU("tanh"),
            nn.Conv2d(width // 2, width, 5, 2, 2), nn.GroupNorm(4, width), nn.GELU("tanh"),
            nn.Conv2d(width, width, 1),
        )  # fmt: skip
        self.places = nn.Parameter(0.02 * torch.randn(self.GRID**2, width))
        self.readers = nn.Parameter(0.02 * torch.randn(len(WORDS), width))
        self.blocks = nn.Sequential(*(Attention(width, self.HEADS) for _ in range(self.DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words)) for name, words in WORDS.items()})

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> dict[str, Float[Tensor, "b v"]]:
        """Logits of each attribute's values, of images in [0, 1]."""
        patches = self.embed(2 * images - 1).flatten(2).mT + self.places
        tokens = self.blocks(torch.cat([self.readers.expand(len(images), -1, -1), patches], 1))
        read = self.norm(tokens[:, : len(WORDS)]).unbind(1)
        return {name: self.heads[name](token) for name, token in zip(WORDS, read, strict=True)}


class Attention(nn.Module):
    """Attention and a perceptron, each beside the identity and behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm, self.mixed = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        for last in (self.out, self.down):
            nn.init.zeros_(last.weight)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        b, n, width = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))
        changed: Tensor = self.down(F.gelu(self.up(self.mixed(x)), approximate="tanh"))
        return x + changed
