"""The two transformers that TiTok's generators are made of: a BERT and a U-ViT."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.dropout import dropped, drops
from flexframe.nn.reading import Context, Reading, read, text_input
from flexframe.nn.transformer import Attention
from flexframe.rng import Rng
from flexframe.tokens import Condition
from flexframe_registry import CodesSpec

from .maskgit import Given, MaskGIT
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


def texts_of(given: Given, block: int) -> tuple[Tensor | None, Tensor | None]:
    """Keys and values of a text for one block, and which of these are present; None without a text."""
    context = given.context
    return (None, None) if context is None else (context.known[block], context.present)


class BERTBlock(nn.Module):
    """Attention and a GELU feed-forward, each added to its input and normed afterwards (eps 1e-12); between them it may
    read a text."""

    def __init__(self, config: BERTMaskGITConfig, reads: bool = False) -> None:
        super().__init__()
        width, self.dropout = config.width, config.dropout
        self.attn = Attention(width, config.heads, dropout=config.attention_dropout)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.reading = Reading(width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        keys: Bool[Tensor, "b 1 1 n"],
        numbers: Int[Tensor, "b s 2"] | None,
        known: Float[Tensor, "2 b h k d"] | None = None,
        present: Bool[Tensor, "b k"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output.

        Args:
            numbers: of the dropout of its layers.
            known: keys and values of a text that it reads, of which some are `present`.
        """
        weights, first, second, third = (None,) * 4 if numbers is None else numbers.unbind(1)
        x = self.norm1(x + dropped(self.attn(x, keys, weights), self.dropout, first))
        if self.reading is not None and known is not None and present is not None:
            x = x + dropped(self.reading(x, known, present), self.dropout, third)
        return self.norm2(x + dropped(self.mlp(x), self.dropout, second))


class BERTMaskGIT(MaskGIT):
    """A BERT over `[class | tokens]`; a text is attended to in every block (Muse, arXiv 2301.00704), and in the place
    of the class is the null one."""

    config: BERTMaskGITConfig

    def __init__(self, config: BERTMaskGITConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width = config.width
        self.embedding = nn.Embedding(self.vocabulary, width)
        self.position_embedding = normal(1 + spec.length, width)
        self.type_embedding = normal(width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(BERTBlock(config, spec.text is not None) for _ in range(config.depth))
        self.head = nn.Linear(width, self.vocabulary if config.head == "vocabulary" else spec.entries)
        self.apply(init_weights)
        self.text = None if spec.text is None else text_input(spec.text.width, width)

    def context(self, condition: Condition | None, guided: bool) -> Context | None:
        return read(self.text, (block.reading for block in self.blocks), condition, guided)

    def logits(
        self,
        ids: Int[Tensor, "b k"],
        given: Given,
        keep: Bool[Tensor, "b k"],
        rng: Rng | None = None,
    ) -> Float[Tensor, "b k v"]:
        words = self.embedding(self.with_class(ids, given.classes))
        x = self.norm(words + self.type_embedding + self.position_embedding[: words.shape[1]])
        numbers: list[Tensor | None] = [None] * len(self.blocks)
        if rng is not None and (self.config.dropout or self.config.attention_dropout):
            drawn = drops(rng, "maskgit/dropout", 1 + 3 * len(self.blocks))
            reads = drops(rng, "maskgit/reading", len(self.blocks)).split(1, 1)
            x = dropped(x, self.config.dropout, drawn[:, 0])
            own = zip(drawn[:, 1:].split(3, 1), reads, strict=True)
            numbers = [torch.cat(each, 1) for each in own]
        keys = attended(keep)
        for i, block in enumerate(self.blocks):
            x = block(x, keys, numbers[i], *texts_of(given, i))
        return self.head(x[:, 1:])


class UViTBlock(nn.Module):
    """A pre-norm block without biases of query, key and value; one with `skip` first merges an earlier block's output
    into its input. Between its two layers it may read a text."""

    def __init__(self, config: UViTMaskGITConfig, reads: bool = False, skip: bool = False) -> None:
        super().__init__()
        width = config.width
        self.merge = nn.Linear(2 * width, width) if skip else None
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, config.heads, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, width))
        self.reading = Reading(width, config.heads) if reads else None

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        keys: Bool[Tensor, "b 1 1 n"],
        text: tuple[Tensor | None, Tensor | None],
        skip: Float[Tensor, "b n w"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """The block's output, by keys and values of a text and which of these are present, and what it merges."""
        if self.merge is not None and skip is not None:
            x = self.merge(torch.cat([x, skip], -1))
        x = x + self.attn(self.norm1(x), keys)
        known, present = text
        if self.reading is not None and known is not None and present is not None:
            x = x + self.reading(x, known, present)
        return x + self.mlp(self.norm2(x))


class UViTMaskGIT(MaskGIT):
    """A U-ViT (Bao et al., arXiv 2209.12152) over `[class | tokens]`; the last block reads the first one's output. A
    text is attended to in every block, and in the place of the class is the null one."""

    config: UViTMaskGITConfig

    def __init__(self, config: UViTMaskGITConfig, spec: CodesSpec) -> None:
        super().__init__(config, spec)
        width, half = config.width, config.depth // 2
        self.embedding = nn.Embedding(self.vocabulary, width)
        self.position_embedding = normal(1 + spec.length, width)
        reads = spec.text is not None
        self.before = nn.ModuleList(UViTBlock(config, reads) for _ in range(half))
        self.middle = UViTBlock(config, reads)
        self.after = nn.ModuleList(UViTBlock(config, reads, skip=True) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec.entries)
        self.apply(init_weights)
        self.text = None if spec.text is None else text_input(spec.text.width, width)

    def context(self, condition: Condition | None, guided: bool) -> Context | None:
        blocks = (*self.before, self.middle, *self.after)
        return read(self.text, (block.reading for block in blocks), condition, guided)

    def logits(
        self,
        ids: Int[Tensor, "b k"],
        given: Given,
        keep: Bool[Tensor, "b k"],
        rng: Rng | None = None,
    ) -> Float[Tensor, "b k v"]:
        words = self.embedding(self.with_class(ids, given.classes))
        x = words + self.position_embedding[: words.shape[1]]
        keys, skips, half = attended(keep), [], len(self.before)
        for i, block in enumerate(self.before):
            x = block(x, keys, texts_of(given, i))
            skips.append(x)
        x = self.middle(x, keys, texts_of(given, half))
        for i, block in enumerate(self.after):
            x = block(x, keys, texts_of(given, half + 1 + i), skips.pop())
        return self.head(self.norm(x)[:, 1:])
