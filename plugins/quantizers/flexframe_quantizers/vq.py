"""Vector quantization by a codebook, by a linear map of a frozen one, and by several in sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flexframe.nn.levels import first_levels
from flexframe.parts import Quantizer
from flexframe.rng import Rng
from flexframe.tokens import Quantized
from flexframe_registry import Spec

from . import ProductVQConfig, ResidualVQConfig, SimVQConfig, VQConfig
from .codebooks import Codebook, SimCodebook, build_codebook
from .common import evaluated, full_precision, projection, projections, straight_through

Passage = Callable[[Tensor, Tensor], Tensor]
"""A way for the gradient of the values to reach the features: (features, entries) to values."""


def rotated(z: Tensor, values: Tensor) -> Tensor:
    """`values` forward; backward the gradient turned as features are onto their entries (arXiv 2410.06424)."""
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to  # seconds, which reading tokens does without

    turned: Tensor = rotate_to(z, values)
    return turned


def head(config: VQConfig, spec: Spec) -> nn.Module:
    """The projection from the encoder's width, for all slots or for each level of them."""
    if config.by_level:
        return projections(spec.tokens.length, spec.features, config.dim)
    return projection(spec.features, config.dim)


def codebook_of(config: VQConfig) -> Codebook:
    """A codebook as a `vq` or a `product-vq` has."""
    l2_norm, clustering = config.l2_norm, config.clustering
    return build_codebook(config, dim=config.entry, l2_norm=l2_norm, clustering=clustering, entropy=config)


def adapted(quantizer: Quantizer, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A quantizer's tensors made to fit: a shorter sequence takes the projections of the first levels, and a codebook
    another's however that learned (`Codebook.adapt`)."""
    fitted = dict(first_levels(state, "project", quantizer.spec.tokens.length))
    for name, module in quantizer.named_modules():
        if isinstance(module, Codebook):
            own = {key.removeprefix(f"{name}."): fitted.pop(key) for key in state if key.startswith(f"{name}.")}
            fitted |= {f"{name}.{key}": value for key, value in module.adapt(own)}
    return fitted


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
    """See `VQConfig`. Losses: `commitment`; for a codebook learned by gradient `codebook`; those of `entropy`."""

    config: VQConfig

    def __init__(self, config: VQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = head(config, spec)
        self.codebook = codebook_of(config)
        self.passage = rotated if config.rotation_trick else straight_through

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        return match_one(self.codebook, self.project(values).float(), keep, self.passage)

    def lookup(self, codes: Int[Tensor, "b k 1"]) -> Float[Tensor, "b k d"]:
        return self.codebook.lookup(codes[..., 0])

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        return adapted(self, state)


class ProductVQ(Quantizer):
    """See `ProductVQConfig`. Losses are means over the codebooks; values are a token's entries side by side."""

    config: ProductVQConfig

    def __init__(self, config: ProductVQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = head(config, spec)
        self.codebooks = nn.ModuleList(codebook_of(config) for _ in range(1 if config.shared else config.codebooks))
        self.passage = rotated if config.rotation_trick else straight_through

    def forward(self, values: Float[Tensor, "b k e"], keep: Bool[Tensor, "b k"], *, rng: Rng) -> Quantized:
        z = self.project(values).float()
        if self.config.shared:  # parts are tokens of their own, that are there where theirs is
            q = self.config.codebooks
            parts = z.unflatten(-1, (q, -1)).flatten(1, 2)
            whole = match_one(self.codebooks[0], parts, keep.repeat_interleave(q, 1), self.passage)
            token, codes = whole.values.unflatten(1, (-1, q)).flatten(2), whole.codes.unflatten(1, (-1, q)).flatten(2)
            return Quantized(token, codes, whole.losses)
        each = [
            match_one(codebook, part, keep, self.passage)
            for codebook, part in zip(self.codebooks, z.chunk(self.config.codebooks, -1), strict=True)
        ]
        losses = {name: torch.stack([one.losses[name] for one in each]).mean(0) for name in each[0].losses}
        return Quantized(
            torch.cat([one.values for one in each], -1), torch.cat([one.codes for one in each], -1), losses
        )

    def lookup(self, codes: Int[Tensor, "b k q"]) -> Float[Tensor, "b k d"]:
        books = [self.codebooks[0]] * self.config.codebooks if self.config.shared else self.codebooks
        return torch.cat([book.lookup(ids) for book, ids in zip(books, codes.unbind(-1), strict=True)], -1)

    def adapt(self, state: Mapping[str, Tensor], spec: Spec) -> Mapping[str, Tensor]:
        return adapted(self, state)


class SimVQ(Quantizer):
    """See `SimVQConfig`. Losses: `commitment` and `codebook`."""

    config: SimVQConfig

    def __init__(self, config: SimVQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.project = projection(spec.features, config.dim)
        self.codebook = SimCodebook(config.codebook_size, config.dim, commitment=config.commitment)
        self.passage = rotated if config.rotation_trick else straight_through

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
        self.codebooks = nn.ModuleList(
            build_codebook(config, dim=config.dim, l2_norm=False, clustering=False)
            for _ in range(config.num_quantizers)
        )

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
