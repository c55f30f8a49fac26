"""ResTok's decoder (arXiv 2601.03955, section 3): tokens by level, mask tokens behind them, convolutions to pixels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.convolutional import ConvDecoder
from flexframe.nn.levels import ByLevel, first_levels, level_sizes, numbered
from flexframe.nn.ranges import Rescale
from flexframe.parts import Decoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec

from . import LevelsDecoderConfig
from .blocks import Block, init_weights, table, turns


class LevelsDecoder(Decoder):
    """`[tokens | mask tokens]` through a transformer; what stands at the mask tokens becomes the image.

    Where training masks tokens, a learned value stands in an absent one's place, before the maps by level; otherwise it
    is not there. Nothing is learned of a cell's place, so images of other sizes are given as well.
    """

    config: LevelsDecoderConfig

    def __init__(self, config: LevelsDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, pixels, tokens = config.width, config.pixels, spec.tokens
        self.rescale, self.levels = Rescale(spec.latents, (0.0, 1.0)), level_sizes(tokens.length)
        self.embed = ByLevel(tokens.length, tokens.dim, width) if config.by_level else nn.Linear(tokens.dim, width)
        self.token_levels, self.mask_token = table(len(self.levels), width), table(width)
        self.absent_token = table(tokens.dim) if tokens.masked else None
        self.semantic_token = table(width) if config.semantic else None
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.head = nn.Conv2d(width, pixels.dim, 1)
        channels = spec.latents.channels
        self.pixels = ConvDecoder(pixels.dim, pixels.hidden, pixels.multipliers, pixels.blocks, channels)
        self.apply(init_weights)
        for layer in self.embed.modules():
            if isinstance(layer, nn.Linear):  # 0.02 at the published width; a token smaller than its level is not read
                nn.init.trunc_normal_(layer.weight, std=0.02 * (1024 / width) ** 0.5)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """A shorter sequence takes the first levels."""
        fewer = first_levels(state, "embed", self.spec.tokens.length)
        return {name: value[: len(self.levels)] if name == "token_levels" else value for name, value in fewer.items()}

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """The reconstruction. The tap `block.i` is the cells after block i, `semantic` see the config, all `b h w e`.

        Raises:
            ValueError: a tap is unknown.
        """
        self.check_taps(taps)
        grid = self.config.pixels.grid(self.spec.latents.height, self.spec.latents.width)
        cells, features = self.cells(tokens, grid, self.mask_token, taps)
        if "semantic" in taps:
            assert self.semantic_token is not None  # as the config's taps say
            features["semantic"], _ = self.cells(tokens, grid, self.semantic_token)
        return Outputs({}, self.shown(cells), features=features)

    def decode(
        self,
        tokens: Tokens,
        *,
        condition: Condition | None,
        size: tuple[int, int],
        rng: Rng,
        sampling: SamplingConfig,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The reconstruction; the same for every `rng`.

        Raises:
            ValueError: `size` is no whole number of cells.
        """
        return self.shown(self.cells(tokens, self.config.pixels.grid(*size), self.mask_token)[0])

    def embedded(self, tokens: Tokens) -> tuple[Float[Tensor, "b k w"], Bool[Tensor, "b k"] | None]:
        """Tokens in the transformer's width, and which of them are seen; all where that is None."""
        absent, length, values = self.absent_token, self.spec.tokens.length, tokens.values
        there = None if absent is not None else tokens.keep
        if absent is None:
            values = values.masked_fill(~tokens.keep[..., None], 0)
        else:
            filled = torch.where(tokens.keep[..., None], values, absent.to(values.dtype))
            rest = absent.to(values.dtype).expand(len(values), length - values.shape[1], -1)
            values = torch.cat([filled, rest], 1)
        level = numbered(self.levels, values.device)[: values.shape[1]]
        return self.embed(values) + self.token_levels[level], there

    def cells(
        self, tokens: Tokens, grid: tuple[int, int], mask: Float[Tensor, " e"], taps: frozenset[str] = frozenset()
    ) -> tuple[Float[Tensor, "b h w e"], dict[str, Float[Tensor, "b h w e"]]]:
        """The last block's features in each cell, and those of the blocks that are tapped."""
        embedded, there = self.embedded(tokens)
        slots, count = embedded.shape[1], grid[0] * grid[1]
        x = self.ln_pre(torch.cat([embedded, mask.to(embedded.dtype).expand(len(embedded), count, -1)], 1))
        head = self.config.width // self.config.heads
        # cells begin behind the whole sequence, however many tokens are there
        turned = turns([self.spec.tokens.length, grid], head, x.device)
        turned = torch.cat([turned[:slots], turned[self.spec.tokens.length :]])
        seen = None if there is None else torch.cat([there, there.new_ones(len(there), count)], 1)[:, None, None]
        features = dict[str, Tensor]()
        for i, block in enumerate(self.blocks):
            x = block(x, turned, seen)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(x[:, slots:], "b (h w) e -> b h w e", h=grid[0])
        return rearrange(x[:, slots:], "b (h w) e -> b h w e", h=grid[0]), features

    def shown(self, cells: Float[Tensor, "b h w e"]) -> Float[Tensor, "b c y x"]:
        """Latents of cells; the convolutions without autocast, as the reference runs them."""
        grid = self.head(self.ln_post(cells).movedim(-1, 1))
        with torch.autocast(grid.device.type, enabled=False):
            return self.rescale.inverse(self.pixels(grid.to(self.pixels.conv_in.weight.dtype)))
