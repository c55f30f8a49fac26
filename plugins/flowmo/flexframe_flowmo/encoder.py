"""FlowMo's encoder (arXiv 2503.11056, section 3.1): tokens that read patches of pixels in a stream of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.ranges import Rescale
from flexframe.parts import Encoder
from flexframe_registry import Spec

from . import MMDiTEncoderConfig
from .blocks import JointBlock, hold_norms, patched, turns_of


class MMDiTEncoder(Encoder):
    """Tokens of latents in [-1, 1], of any size that the patches divide."""

    config: MMDiTEncoderConfig

    def __init__(self, config: MMDiTEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        width, last = config.width, config.depth - 1
        self.rescale = Rescale(spec.latents, (-1.0, 1.0))
        self.patches = nn.Linear(spec.latents.channels * config.patch**2, width)
        bound = spec.tokens.dim**-0.5  # as the bias of a map from as many values, which the reference has for it
        self.start = nn.Parameter(nn.init.uniform_(torch.empty(width), -bound, bound))
        self.blocks = nn.ModuleList(
            JointBlock(width, config.heads, modulated=False, ends="patches" if i == last else None)
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        """Features of the first tokens.

        Raises:
            ValueError: the patches do not divide the latents.
        """
        size, count = self.config.patch, self.spec.tokens.length
        patches = self.patches(patched(self.rescale(latents), size))
        tokens = self.start.to(patches.dtype).expand(len(latents), count, -1)
        turns = turns_of(self.config, count, (latents.shape[2] // size, latents.shape[3] // size), latents.device)
        for block in self.blocks:
            tokens, patches = block(tokens, patches, turns)
        features: Tensor = self.norm(tokens[:, : keep.shape[1]])
        return features

    def before_step(self) -> Callable[[], None] | None:
        return hold_norms(self.blocks) if self.config.fixed_norms else None
