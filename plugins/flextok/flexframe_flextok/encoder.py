"""FlexTok's encoder (arXiv 2502.13967, section 3): patches and registers in one prefix-causal transformer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from flexframe.nn.ranges import Rescale
from flexframe.nn.transformer import causal_registers
from flexframe.parts import Encoder
from flexframe_registry import Spec

from . import RegisterEncoderConfig
from .blocks import Block, LayerNorm, PatchEmbed


def mutual_registers(patches: int, registers: int, device: torch.device) -> Bool[Tensor, "n n"]:
    """True where query (row) may see key: patches see patches, registers see everything."""
    position = torch.arange(patches + registers, device=device)
    return (position < patches) | (position >= patches)[:, None]


class RegisterEncoder(Encoder):
    """`length` learned registers read the patches; register i knows of registers 0..i only, so prefixes are exact.

    With `causal: false` registers know of each other, and all of them are computed whatever `keep` says: an absent slot
    changes no present one, since none is ever absent in here.
    """

    config: RegisterEncoderConfig

    def __init__(self, config: RegisterEncoderConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        latents = spec.latents
        grid = (latents.height // config.patch, latents.width // config.patch)
        self.rescale = Rescale(latents, (-1.0, 1.0))
        stretch = config.positions == "interpolate"
        self.patches = PatchEmbed(
            latents.channels, config.width, config.patch, grid, stretch=stretch, table=config.grid
        )
        self.registers = nn.Parameter(nn.init.trunc_normal_(torch.empty(spec.tokens.length, config.width), std=0.02))
        self.blocks = nn.ModuleList(Block(config.width, config.head_dim) for _ in range(config.depth))
        self.norm = LayerNorm()

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """Registers are ordered: a shorter sequence takes the first ones."""
        length = self.spec.tokens.length
        return {name: value[:length] if name == "registers" else value for name, value in state.items()}

    def forward(self, latents: Float[Tensor, "b c y x"], keep: Bool[Tensor, "b k"]) -> Float[Tensor, "b k e"]:
        patches = self.patches(self.rescale(latents))
        count, slots = patches.shape[1], keep.shape[1]
        learned = self.registers[:slots] if self.config.causal else self.registers
        registers = learned.expand(len(latents), -1, -1).to(patches.dtype)
        seen = causal_registers if self.config.causal else mutual_registers
        mask = seen(count, registers.shape[1], patches.device)
        x = torch.cat([patches, registers], 1)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x[:, count : count + slots])
