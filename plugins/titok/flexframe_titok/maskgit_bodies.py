"""The two transformers that TiTok's generators are made of: a BERT and a U-ViT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.dropout import dropped, drops
from flexframe.nn.transformer import Attention
from flexframe.rng import Rng
from flexframe_registry import CodesSpec

from .maskgit import MaskGIT
from .maskgit_configs import BERTMaskGITConfig, UViTMaskGITConfig


def normal(*shape: int) -> nn.Parameter:
    """A learned embedding of deviation 0.02."""
    return nn.Parameter(0.02 * torch.randn(*shape))


def init_weights(module: nn.Module) -> None:
    """Initialise one module, normals of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def attended(keep: Bool[Tensor, "b k"]) -> Bool[Tensor, "b 1 1 n"]:
    """The positions that may be attended to: the class, and the tokens that are present."""
    return torch.cat([keep.new_ones(len(keep), 1), keep], 1)[:, None, None]


class BERTBlock(nn.Module):
    """Attention and a GELU feed-forward, each added to its input and normed afterwards (eps 1e-12)."""

    def __init__(self, config: BERTMaskGITConfig) -> None:
        super().__init__()
        width, self.dropout = config.width, config.dropout
        self.attn = Attention(width, config.heads, dropout=config.attention_dropout)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, x: Float[Tensor, "b n w"], keys: Bool[Tensor, "b 1 1 n"], numbers: Int[Tensor, "b 3 2"] | None
    ) -> Float[Tensor, "b n w"]:
        weights, first, second = (None, None, None) if numbers is None else numbers.unbind(1)
        x = self.norm1(x + dropped(self.attn(x, keys, weights), self.dropout, first))
        return self.norm2(x + dropped(self.mlp(x), self.dropout, second))


class BERTMaskGIT(MaskGIT):
    """A BERT over `[class | tokens]`."""

    config: BERTMaskGITConfig

    def __init__(self, config: BERTMaskGITConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width = config.width
        self.embedding = nn.Embedding(self.vocabulary, width)
        self.position_embedding = normal(1 + spec.length, width)
        self.type_embedding = normal(width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BERTBlock(config) for _ in range(config.depth))
        self.head = nn.Linear(width, self.vocabulary if config.head == "vocabulary" else spec.entries)
        self.apply(init_weights)

    def logits(
        self,
        ids: Int[Tensor, "b k"],
        classes: Int[Tensor, " b"],
        keep: Bool[Tensor, "b k"],
        rng: Rng | None = None,
    ) -> Float[Tensor, "b k v"]:
        words = self.embedding(self.with_class(ids, classes))
        x = self.norm(words + self.type_embedding + self.position_embedding[: words.shape[1]])
        numbers = [None] * len(self.blocks)
        if rng is not None and (self.config.dropout or self.config.attention_dropout):
            drawn = drops(rng, "maskgit/dropout", 1 + 3 * len(self.blocks))
            x, numbers = dropped(x, self.config.dropout, drawn[:, 0]), drawn[:, 1:].split(3, 1)
        keys = attended(keep)
        for block, each in zip(self.blocks, numbers, strict=True):
            x = block(x, keys, each)
        return self.head(x[:, 1:])


class UViTBlock(nn.Module):
    """A pre-norm block without biases of query, key and value; one with `skip` first merges an earlier block's output
    into its input."""

    def __init__(self, config: UViTMaskGITConfig, skip: bool = False) -> None:
        super().__init__()
        width = config.width
        self.merge = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config.heads, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))

    def forward(
        self, x: Float[Tensor, "b n w"], keys: Bool[Tensor, "b 1 1 n"], skip: Float[Tensor, "b n w"] | None = None
    ) -> Float[Tensor, "b n w"]:
        if self.merge is not None and skip is not None:
            x = self.merge(torch.cat([x, skip], -1))
        x = x + self.attn(self.norm1(x), keys)
        return x + self.mlp(self.norm2(x))


class UViTMaskGIT(MaskGIT):
    """A U-ViT (Bao et al., arXiv 2209.12152) over `[class | tokens]`; the last block reads the first one's output."""

    config: UViTMaskGITConfig

    def __init__(self, config: UViTMaskGITConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, half = config.width, config.depth // 2
        self.embedding = nn.Embedding(self.vocabulary, width)
        self.position_embedding = normal(1 + spec.length, width)
        self.before = nn.ModuleList(UViTBlock(config) for _ in range(half))
        self.middle = UViTBlock(config)
        self.after = nn.ModuleList(UViTBlock(config, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.entries)
        self.apply(init_weights)

    def logits(
        self,
        ids: Int[Tensor, "b k"],
        classes: Int[Tensor, " b"],
        keep: Bool[Tensor, "b k"],
        rng: Rng | None = None,
    ) -> Float[Tensor, "b k v"]:
        words = self.embedding(self.with_class(ids, classes))
        x = words + self.position_embedding[: words.shape[1]]
        keys, skips = attended(keep), []
        for block in self.before:
            x = block(x, keys)
            skips.append(x)
        x = self.middle(x, keys)
        for block in self.after:
            x = block(x, keys, skips.pop())
        return self.head(self.norm(x)[:, 1:])
