"""Vector quantization by a codebook, by a linear map of a frozen one, and by several in sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to

from flexframe.nn.levels import first_levels
from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import ResidualVQConfig, SimVQConfig, VQConfig
from .codebooks import Codebook, SimCodebook, build_codebook
from .common import evaluated, full_precision, projection, projections, straight_through

Passage = Callable[[Tensor, Tensor], Tensor]
"""A way for the gradient of the values to reach the features: (features, entries) to values."""


def match_one(codebook: Codebook, z: Tensor, keep: Tensor, passage: Passage) -> Quantized:
    """One code a token."""
    with full_precision(z):
        matched = codebook(z, keep)
        codes = matched.ids[..., None]
        if codebook.training:
            values = passage(matched.features, matched.entries)
        else:
            values = evaluated(matched.features, codebook.lookup(matched.ids))
    return Quantized(values, codes, matched.losses)


class VQ(Quantizer):
    """See `VQConfig`. Losses: `commitment` and, for a codebook learned by gradient, `codebook`."""

    config: VQConfig

    def __init__(self, config: VQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        length, width = spec.tokens.length, spec.features
        self.project = projections(length, width, config.dim) if config.by_level else projection(width, config.dim)
        self.codebook = build_codebook(config, l2_norm=config.l2_norm)
        self.passage = rotate_to if config.rotation_trick else straight_through

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        """A shorter sequence takes the projections of the first levels."""
        return first_levels(state, "project", self.spec.tokens.length)

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        return match_one(self.codebook, self.project(values).float(), keep, self.passage)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return self.codebook.lookup(codes[..., 0])


class SimVQ(Quantizer):
    """See `SimVQConfig`. Losses: `commitment` and `codebook`."""

    config: SimVQConfig

    def __init__(self, config: SimVQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim)
        self.codebook = SimCodebook(config.codebook_size, config.dim, commitment=config.commitment)
        self.passage = rotate_to if config.rotation_trick else straight_through

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        return match_one(self.codebook, self.project(values).float(), keep, self.passage)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return self.codebook.lookup(codes[..., 0])


class ResidualVQ(Quantizer):
    """See `ResidualVQConfig`. Losses are sums over the codebooks; values are the sum of a token's entries."""

    config: ResidualVQConfig

    def __init__(self, config: ResidualVQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim)
        self.codebooks = nn.ModuleList(build_codebook(config, l2_norm=False) for _ in range(config.num_quantizers))

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        residual, ids, losses = z, [], {}
        with full_precision(z):
            for codebook in self.codebooks:
                matched = codebook(residual, keep)
                residual = residual - matched.entries.detach()
                ids.append(matched.ids)
                losses = {name: losses.get(name, 0) + loss for name, loss in matched.losses.items()}
            codes = torch.stack(ids, -1)
            if not self.training:
                return Quantized(evaluated(z, self.lookup(codes)), codes, losses)
            return Quantized(straight_through(z, z - residual), codes, losses)

    def lookup(self, codes: Int[Tensor, "b k q"]) -> Float[Tensor, "b k d"]:
        parts = [codebook.lookup(ids) for codebook, ids in zip(self.codebooks, codes.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)
