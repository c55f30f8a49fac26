"""ResTok's encoder (arXiv 2601.03955, section 3): cells that merge, and levels of tokens, both by their residuals."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.convolutional import ConvEncoder
from flexframe.nn.levels import level_grids, level_sizes, numbered
from flexframe.parts import Encoder
from flexframe.rng import Rng
from flexframe_registry import Spec

from . import ResidualLevelsEncoderConfig
from .blocks import Block, init_weights, table, turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, by which images are normalised."""


class ResidualLevelsEncoder(Encoder):
    """`[cells, the coarsest level first | tokens]` through a transformer; the tokens are the features.

    All tokens are always computed. Nothing is learned of a cell's place, so images of other sizes are read as well.
    """

    config: ResidualLevelsEncoderConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: ResidualLevelsEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, pixels, length = config.width, config.pixels, spec.tokens.length
        self.levels, self.merges = level_sizes(length), config.merges()
        self.pixels = ConvEncoder(3, pixels.hidden, pixels.multipliers, pixels.blocks)
        self.pixels_out = nn.Conv2d(pixels.hidden * pixels.multipliers[-1], pixels.dim, 1)
        self.patch_embed = nn.Conv2d(pixels.dim, width, 1)
        self.cell_levels, self.token_levels = table(len(self.merges) + 1, width), table(len(self.levels), width)
        self.tokens = table(length, width) if config.start == "learned" else None
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.apply(init_weights)
        for layer, published in ((self.pixels_out, 512), (self.patch_embed, 256)):
            # 0.02 at the published widths; at others so that cells are as large beside the embeddings of their levels:
            # at size tiny an image else moves its features by a hundredth of their deviation
            nn.init.trunc_normal_(layer.weight, std=0.02 * (published / layer.in_channels) ** 0.5)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """A shorter sequence takes the first tokens and levels."""
        lengths = {"token_levels": len(self.levels), "tokens": self.spec.tokens.length}
        return {name: value[: lengths.get(name)] if name in lengths else value for name, value in state.items()}

    def forward(self, images: Float[Tensor, "b 3 h w"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        """Features of the first slots.

        Raises:
            ValueError: images whose cells cannot merge.
        """
        return self.run(images)[0][:, : keep.shape[1]]

    def tapped(
        self, images: Float[Tensor, "b 3 h w"], keep: Bool[Tensor, "b k"], *, taps: frozenset[str], rng: Rng
    ) -> tuple[Float[Tensor, "b k e"], Mapping[str, Float[Tensor, "b rows columns e"]]]:
        """Features of the first slots, and with the tap `coarsest` the coarsest level of cells."""
        if taps - self.config.taps().keys():
            return super().tapped(images, keep, taps=taps, rng=rng)
        features, cells = self.run(images)
        return features[:, : keep.shape[1]], {"coarsest": cells[0]} if taps else {}

    def run(
        self, images: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b k e"], list[Float[Tensor, "b rows columns e"]]]:
        """Features of all slots, and each level of cells behind the last block, the coarsest first."""
        grids = self.config.grids(*images.shape[2:])
        cells = self.patch_embed(self.pixels_out(self.pixels((images - self.mean) / self.std)))
        tokens = self.started(cells) + self.token_levels[numbered(self.levels, images.device)]
        x = self.ln_pre(torch.cat([rearrange(cells, "b e h w -> b (h w) e") + self.cell_levels[0], tokens], 1))
        level, turned, seen = 0, *self.places(grids[:1], x.device)
        for i, block in enumerate(self.blocks):
            if i not in self.merges:
                x = block(x, turned, seen)
                continue
            front = grids[level][0] * grids[level][1]
            x = block(x, turned, seen, (front, self.config.merge, self.config.residual_cells))
            level, front = level + 1, front // self.config.merge
            x = torch.cat([x[:, :front] + self.cell_levels[level], x[:, front:]], 1)
            turned, seen = self.places(grids[level::-1], x.device)
        return self.finished(x[:, -sum(self.levels) :]), self.split(x, grids[::-1])

    def started(self, cells: Float[Tensor, "b e h w"]) -> Float[Tensor, "b k e"]:
        """First values of all tokens; see `start` of the config."""
        length, start = self.spec.tokens.length, self.config.start
        if self.tokens is not None:
            return self.tokens.to(cells.dtype).expand(len(cells), -1, -1)
        if start == "flat":
            return F.interpolate(cells.flatten(2), length, mode="area").mT
        parts = []
        for grid in level_grids(length):
            part = F.interpolate(cells, grid, mode="area")
            parts.append(part.flatten(2))
            if start == "residual":
                cells = cells - F.interpolate(part, cells.shape[2:], mode="nearest")
        return torch.cat(parts, 2)[..., :length].mT

    def places(
        self, grids: list[tuple[int, int]], device: torch.device
    ) -> tuple[Float[Tensor, "n planes 2"], Bool[Tensor, "n n"]]:
        """Rotary positions of grids of cells and then tokens, and which of them sees which: its own level, and all
        before it."""
        level = numbered([*(rows * columns for rows, columns in grids), *self.levels], device)
        head = self.config.width // self.config.heads
        return turns([*grids, sum(self.levels)], head, device), level[:, None] >= level

    def finished(self, tokens: Float[Tensor, "b k e"]) -> Float[Tensor, "b k e"]:
        """Tokens behind the last block as features."""
        features: Tensor = self.ln_post(tokens)
        if self.config.legacy:
            # the published model reads the K x w memory as w x K: a token's channels come from many tokens
            features = features.reshape(len(tokens), -1, tokens.shape[1]).transpose(1, 2)
        return features

    def split(self, x: Float[Tensor, "b n e"], grids: list[tuple[int, int]]) -> list[Float[Tensor, "b h w e"]]:
        """The levels of cells that a sequence begins with."""
        sizes = [rows * columns for rows, columns in grids]
        parts = torch.split(x[:, : sum(sizes)], sizes, 1)
        return [rearrange(part, "b (h w) e -> b h w e", h=rows) for part, (rows, _) in zip(parts, grids, strict=True)]
