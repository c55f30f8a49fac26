"""Semanticist's encoder (arXiv 2503.08685, section 3): patches of pixels and slots in one prefix-causal transformer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.positions import resize_positions
from flexframe.nn.transformer import Block, causal_registers
from flexframe.parts import Encoder
from flexframe.rng import Rng
from flexframe_registry import Spec

from . import SlotEncoderConfig


def learned(*shape: int) -> nn.Parameter:
    """A learned table of deviation 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(*shape), std=0.02))


class SlotEncoder(Encoder):
    """`[class | patches | slots]` through a transformer; the slots are the features. Images are taken in [0, 1]."""

    config: SlotEncoderConfig

    def __init__(self, config: SlotEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, images = config.width, spec.images
        self.grid = (images.height // config.patch, images.width // config.patch)
        self.front = 1 + self.grid[0] * self.grid[1]
        self.patches = nn.Conv2d(3, width, config.patch, config.patch)
        self.class_token, self.slots = learned(1, width), learned(spec.tokens.length, width)
        self.positions = learned(self.front + spec.tokens.length, width)
        self.blocks = nn.ModuleList(Block(width, config.heads, eps=1e-6) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Positions of another image size are stretched to this grid; a shorter sequence takes the first slots."""
        if not {"positions", "slots"} <= state.keys():
            return state
        table, slots, length = state["positions"], state["slots"], len(self.slots)
        there = (spec.images.height // self.config.patch, spec.images.width // self.config.patch)
        first, cells, last = table[:1], table[1 : len(table) - len(slots)], table[len(table) - len(slots) :]
        if len(cells) == there[0] * there[1]:
            cells = resize_positions(cells, there, self.grid)
        return {**state, "positions": torch.cat([first, cells, last[:length]]), "slots": slots[:length]}

    def forward(
        self, images: Float[Tensor, "b 3 h w"], keep: Bool[Tensor, "b k"], *, rng: Rng | None = None
    ) -> Float[Tensor, "b k e"]:
        """Features of the first slots; with an `rng`, in training, some samples go without some branches.

        Raises:
            ValueError: images of another size.
        """
        size = (self.spec.images.height, self.spec.images.width)
        if tuple(images.shape[2:]) != size:
            text = f"this encoder reads images of {size[0]} x {size[1]}, not {images.shape[2]} x {images.shape[3]}"
            raise ValueError(f"{text}; resize them")
        count = keep.shape[1] if self.config.causal else len(self.slots)
        x = self.sequence(images, count)
        seen = causal_registers(self.front, count, x.device) if self.config.causal else None
        branches = None if rng is None or not self.training else self.branches(rng)
        for i, block in enumerate(self.blocks):
            x = block(x, seen, None if branches is None else branches[:, i])
        features: Tensor = self.norm(x[:, self.front : self.front + keep.shape[1]])
        return features

    def taught(
        self, images: Float[Tensor, "b 3 h w"], keep: Bool[Tensor, "b k"], *, rng: Rng
    ) -> Float[Tensor, "b k e"]:
        features: Tensor = self(images, keep, rng=rng)
        return features

    def sequence(self, images: Float[Tensor, "b 3 h w"], count: int) -> Float[Tensor, "b n e"]:
        """The first block's input: class token, patches and so many slots, with their positions."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        ends = (each.to(patches.dtype).expand(len(images), -1, -1) for each in (self.class_token, self.slots[:count]))
        first, last = ends
        return torch.cat([first, patches, last], 1) + self.positions[: self.front + count]

    def branches(self, rng: Rng) -> Float[Tensor, "b depth 2"] | None:
        """Factors of attention and feed-forward in each block: 0 where left out, else what keeps the mean."""
        if not self.config.drop_path:
            return None
        drawn = rng.uniform("encoder/drop-path", (len(self.blocks), 2))
        dropped = torch.linspace(0, self.config.drop_path, len(self.blocks), device=drawn.device)[:, None]
        return (drawn >= dropped) / (1 - dropped)
