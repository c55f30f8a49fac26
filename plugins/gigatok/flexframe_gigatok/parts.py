"""GigaTok's encoder and decoder (arXiv 2504.08736, section 3): a convolutional network and a transformer each."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.nn.levels import level_grids, level_sizes
from flexframe.nn.positions import resize_positions
from flexframe.nn.ranges import Rescale
from flexframe.parts import Decoder, Encoder, OnStep
from flexframe.rng import Rng
from flexframe.tokens import Batch, Condition, Outputs, Tokens
from flexframe_registry import SamplingConfig, Spec
from flexframe_registry.kinds import ENCODER

from . import QFormerConfig, QFormerDecoderConfig, QFormerEncoderConfig
from .blocks import ConvDown, ConvUp, CrossBlock

RANGE = (-1.0, 1.0)


def positions(count: int, width: int) -> nn.Parameter:
    """A learned table of deviation width ** -0.5."""
    return nn.Parameter(torch.randn(count, width) * width**-0.5)


def adapted(
    state: Mapping[str, Tensor], config: QFormerConfig, there: Spec, here: Spec, *, grid: str, tokens: str
) -> dict[str, Tensor]:
    """A part's tensors with its grid's positions stretched to another image size, and tokens' cut to a length."""
    changed = dict(state)
    if grid in state:
        changed[grid] = resize_positions(state[grid], config.grid(there), config.grid(here))
    if tokens in state:
        changed[tokens] = state[tokens][: here.tokens.length]
    return changed


class QFormerEncoder(Encoder):
    """See `QFormerEncoderConfig`. All queries are always computed: they see each other, so that a token would be
    another if some were left out."""

    config: QFormerEncoderConfig

    def __init__(self, config: QFormerEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, (rows, columns), length = config.width, config.grid(spec), spec.tokens.length
        self.rescale = Rescale(spec.latents, RANGE)
        self.conv = ConvDown(spec.latents.channels, config.hidden, config.multipliers, config.channels)
        self.norm_in = nn.LayerNorm(config.channels)
        self.embed, self.start = nn.Linear(config.channels, width), nn.Linear(width, width)
        self.places, self.positions = positions(rows * columns, width), positions(length, width)
        self.blocks = nn.ModuleList(CrossBlock(width, config.heads) for _ in range(config.depth))
        self.norm_out, self.out = nn.LayerNorm(width), nn.Linear(width, config.channels)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Positions of another image size are stretched to this grid; fewer tokens take the first ones'."""
        return adapted(state, self.config, spec, self.spec, grid="places", tokens="positions")

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        return self.read(self.grid(latents), len(self.positions))[:, : keep.shape[1]]

    def tapped(
        self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"], *, taps: frozenset[str], rng: Rng
    ) -> tuple[Float[Tensor, "b k e"], Mapping[str, Float[Tensor, "b h w e"]]]:
        """`grid` is what the convolutional network gives the queries to read."""
        unknown = taps - frozenset(self.config.taps())
        if unknown:
            return super().tapped(latents, keep, taps=unknown, rng=rng)
        grid = self.grid(latents)
        features = self.read(grid, len(self.positions))[:, : keep.shape[1]]
        return features, {name: rearrange(grid, "b c h w -> b h w c") for name in taps}

    def grid(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b e h w"]:
        """Features that the convolutional network makes of latents.

        Raises:
            ValueError: they are of another size.
        """
        own = (self.spec.latents.channels, self.spec.latents.height, self.spec.latents.width)
        if latents.shape[1:] != own:
            raise ValueError(f"this encoder reads latents of shape {own}, not {tuple(latents.shape[1:])}; resize them")
        features: Tensor = self.conv(self.rescale(latents))
        return features

    def read(self, grid: Float[Tensor, "b e h w"], count: int) -> Float[Tensor, "b k e"]:
        """Features of the first `count` queries, which see no others."""
        memory = self.embed(self.norm_in(rearrange(grid, "b e h w -> b (h w) e")))
        x = self.queries(memory, grid.shape[2])[:, :count]
        for block in self.blocks:
            x = block(x, memory, self.positions[:count], self.places)
        features: Tensor = self.out(self.norm_out(x))
        return features

    def queries(self, memory: Float[Tensor, "b n e"], rows: int) -> Float[Tensor, "b k e"]:
        """Means of regions, level by level from the whole image to the smallest, each level row by row."""
        cells, length = rearrange(memory, "b (h w) e -> b e h w", h=rows), len(self.positions)
        levels = zip(level_grids(length), level_sizes(length), strict=True)
        means = [F.adaptive_avg_pool2d(cells, grid).flatten(2)[..., :size] for grid, size in levels]
        queries: Tensor = self.start(torch.cat(means, -1).mT)
        return queries


class QFormerDecoder(Decoder):
    """See `QFormerDecoderConfig`. An absent token is not there: no query attends to it."""

    config: QFormerDecoderConfig

    def __init__(self, config: QFormerDecoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, channels, (self.rows, columns) = config.width, config.channels, config.grid(spec)
        self.rescale = Rescale(spec.latents, RANGE)
        self.from_tokens = nn.Linear(spec.tokens.dim, channels)
        self.norm_in, self.embed = nn.LayerNorm(channels), nn.Linear(channels, width)
        self.positions = positions(self.rows * columns, width)
        self.places = positions(spec.tokens.length, width)
        self.blocks = nn.ModuleList(CrossBlock(width, config.heads) for _ in range(config.depth))
        self.norm_out, self.out = nn.LayerNorm(width), nn.Conv2d(width, channels, 3, padding=1)
        self.conv = ConvUp(channels, config.hidden, config.multipliers, spec.latents.channels)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Positions of another image size are stretched to this grid; fewer tokens take the first ones'."""
        return adapted(state, self.config, spec, self.spec, grid="positions", tokens="places")

    def forward(self, tokens: Tokens, batch: Batch, *, taps: frozenset[str], rng: Rng) -> Outputs:
        """The reconstruction. Taps: `block.i`; `grid`, what the transformer gives the convolutional network; `direct`,
        what that makes of the encoder's grid in its place.

        Raises:
            ValueError: a tap is unknown, or the encoder's grid is not there or of another shape.
        """
        self.check_taps(taps)
        grid, features = self.grid(tokens, taps)
        if "grid" in taps:
            features["grid"] = rearrange(grid, "b e h w -> b h w e")
        if "direct" in taps:
            features["direct"] = self.picture(self.given(batch))
        return Outputs({}, self.picture(grid), features=features)

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
        """The reconstruction; the same for every `rng`, and at the model's own `size` only.

        Raises:
            ValueError: `size` is not the model's own.
        """
        self.check_size(size, "its positions are fixed")
        return self.picture(self.grid(tokens)[0])

    def grid(
        self, tokens: Tokens, taps: frozenset[str] = frozenset()
    ) -> tuple[Float[Tensor, "b e h w"], dict[str, Tensor]]:
        """The grid that the transformer makes of tokens, and the features of the tapped blocks."""
        memory = self.embed(self.norm_in(self.from_tokens(tokens.values.to(self.from_tokens.weight.dtype))))
        x, features = memory[:, :1].expand(-1, len(self.positions), -1), dict[str, Tensor]()
        places, seen = self.places[: memory.shape[1]], tokens.keep[:, None, None]
        for i, block in enumerate(self.blocks):
            x = block(x, memory, self.positions, places, seen)
            if f"block.{i}" in taps:
                features[f"block.{i}"] = rearrange(x, "b (h w) e -> b h w e", h=self.rows)
        return self.out(rearrange(self.norm_out(x), "b (h w) e -> b e h w", h=self.rows)), features

    def picture(self, grid: Float[Tensor, "b e h w"]) -> Float[Tensor, "b c y x"]:
        """Latents, by the convolutional network."""
        return self.rescale.inverse(self.conv(grid))

    def given(self, batch: Batch) -> Float[Tensor, "b e h w"]:
        """The encoder's grid, as a batch of training has it."""
        name, shape = f"{ENCODER}grid", self.config.shortcuts(self.spec)["direct"][1]
        found = batch.features.get(name)
        if found is None or found.shape[1:] != shape:
            has = "none" if found is None else f"one of {tuple(found.shape[1:])}"
            raise ValueError(f"'direct' is made of {name} of shape {shape}, and there is {has}")
        return rearrange(found, "b h w e -> b e h w")
