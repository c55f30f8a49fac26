"""Finite scalar quantization: rounding on a fixed grid, in one step or in several ever finer ones."""

from __future__ import annotations

from contextlib import nullcontext
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import FSQConfig, ResidualFSQConfig
from .common import evaluated, full_precision, projection, straight_through


class FSQ(Quantizer):
    """See `FSQConfig`. Grid and ids are those of `vector_quantize_pytorch.FSQ`, to the bit, without its import."""

    config: FSQConfig

    def __init__(self, config: FSQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = nn.Linear(spec.features, len(config.levels))
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        levels = torch.tensor(config.levels, dtype=torch.int32)
        half = (levels - 1) * (1 + 1e-3) / 2
        self.register_buffer("levels", levels, persistent=False)
        strides = torch.tensor([prod(config.levels[:i]) for i in range(len(levels))], dtype=torch.int32)
        self.register_buffer("strides", strides, persistent=False)
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        self.register_buffer("reach", half, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("half_width", levels // 2, persistent=False)

    def bounded(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Into the grid's range, in steps of one, not rounded."""
        return torch.tanh(z + torch.atanh(self.offset / self.reach)) * self.reach - self.offset

    def quantize(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Round to the nearest point of the grid, straight-through; values lie in [-1, 1]."""
        bounded = self.bounded(z)
        return straight_through(bounded, bounded.round()) / self.half_width

    def ids(self, values: Float[Tensor, "*b d"]) -> Int[Tensor, "*b"]:
        """The code of each point of the grid."""
        steps = values * self.half_width + self.half_width
        return (steps * self.strides).sum(-1).round().long()

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            quantized = self.quantize(z)
            codes = self.ids(quantized)[..., None]
            if not self.training:
                return Quantized(evaluated(self.bounded(z) / self.half_width, self.lookup(codes)), codes)
            if self.config.drop_quant_p:
                drop = rng.uniform("quantizer/drop") < self.config.drop_quant_p
                quantized = torch.where(drop[:, None, None], self.bounded(z) / self.half_width, quantized)
            if self.config.corrupt_tokens_p:
                quantized, codes = self._corrupt(quantized, codes, rng)
        return Quantized(quantized, codes)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return ((codes // self.strides) % self.levels - self.half_width) / self.half_width

    def _corrupt(self, values: Tensor, codes: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        low, high = self.config.min_corrupt_tokens_p, self.config.corrupt_tokens_p
        rate = low + (high - low) * rng.uniform("quantizer/corrupt-rate")
        rate = rate * (rng.uniform("quantizer/corrupt") < self.config.apply_corrupt_tokens_p)
        slots = codes.shape[1]
        replace = rng.uniform("quantizer/corrupt-token", (slots,)) < rate[:, None]
        drawn = rng.integers("quantizer/corrupt-code", self.spec.tokens.codebook_size, (slots,))
        codes = torch.where(replace[..., None], drawn[..., None], codes)
        return torch.where(replace[..., None], self.lookup(codes), values), codes


class ResidualFSQ(Quantizer):
    """See `ResidualFSQConfig`. The grids are the library's, with its soft clamp; the gradient passes straight through
    the sum of the steps once, where the library's passes once a step."""

    config: ResidualFSQConfig

    def __init__(self, config: ResidualFSQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        from vector_quantize_pytorch import ResidualFSQ as ResidualGrid  # seconds, which a plain FSQ does without

        self.project = projection(spec.features, len(config.levels))
        # the library reads its tables while it is built, which the meta device cannot give; they are never trained
        with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
            self.grids = ResidualGrid(levels=list(config.levels), num_quantizers=config.num_quantizers)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        with full_precision(z):
            with torch.no_grad():
                _, codes = self.grids(z)
            codes = codes.long()
            looked_up = self.lookup(codes)
            clamp = self.grids.soft_clamp_input_value
            passage = straight_through if self.training else evaluated
            return Quantized(passage((z / clamp).tanh() * clamp, looked_up), codes)

    def lookup(self, codes: Int[Tensor, "b k q"]) -> Float[Tensor, "b k d"]:
        return self.grids.get_output_from_indices(codes)
