"""Quantizers: what turns an encoder's features into tokens, discrete or continuous."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from flexframe_registry import Component, QuantizerConfig, Spec, TokenSpec, hookimpl

from .codebook_configs import CodebookConfig, ProductVQConfig, ResidualVQConfig, SimVQConfig, VQConfig
from .scalar_configs import BinaryConfig, BSQConfig, FSQConfig, LFQConfig, ResidualFSQConfig
from .soft_configs import GumbelConfig, IBQConfig, SoftVQConfig

__all__ = [
    "BSQConfig",
    "BinaryConfig",
    "CodebookConfig",
    "FSQConfig",
    "GumbelConfig",
    "IBQConfig",
    "KLConfig",
    "LFQConfig",
    "ProductVQConfig",
    "ResidualFSQConfig",
    "ResidualVQConfig",
    "SimVQConfig",
    "SoftVQConfig",
    "UnquantizedConfig",
    "VQConfig",
]


class KLConfig(QuantizerConfig):
    """A diagonal Gaussian for each token, drawn to the standard normal (a VAE); continuous. TiTok's VAE mode."""

    type: Literal["kl"] = "kl"
    dim: int = Field(16, ge=1)
    """Width of a token."""
    weight: float = Field(1e-6, ge=0)
    """Weight of the divergence, which is summed over a sample's tokens and dimensions."""
    fixed_logvar: float | None = None
    """A log variance for all tokens in place of a predicted one (0 in TA-TiTok); the head then has the mean alone."""
    sample: bool = False
    """Draw from the Gaussian at use, as training does, rather than take its mean."""

    sizes = {"tiny": {"dim": 8}}

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, self.dim)


class UnquantizedConfig(QuantizerConfig):
    """No quantization: tokens are the features, or a linear map of them; continuous, no loss."""

    type: Literal["none"] = "none"
    dim: int | None = Field(None, ge=1)
    """Width of a token; None leaves the features as they are."""
    standardize: bool = False
    """Bring each token to mean 0 and deviation 1 (unbiased) over its own dims, so that none can grow and a prior knows
    the scale of what it models (Semanticist, arXiv 2503.08685)."""

    later = frozenset({"standardize"})
    sizes = {"tiny": {}}

    def check(self, spec: Spec) -> None:
        if self.standardize and spec.tokens.dim < 3:
            raise ValueError(
                f"standardize leaves a token of dim {spec.tokens.dim} nothing but signs; take 3 dims or more"
            )

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, features if self.dim is None else self.dim)


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(FSQConfig, "flexframe_quantizers.fsq:FSQ"),
        Component(VQConfig, "flexframe_quantizers.vq:VQ"),
        Component(SimVQConfig, "flexframe_quantizers.vq:SimVQ"),
        Component(ProductVQConfig, "flexframe_quantizers.vq:ProductVQ"),
        Component(IBQConfig, "flexframe_quantizers.soft:IBQ"),
        Component(GumbelConfig, "flexframe_quantizers.soft:Gumbel"),
        Component(SoftVQConfig, "flexframe_quantizers.soft:SoftVQ"),
        Component(LFQConfig, "flexframe_quantizers.binary:LFQ"),
        Component(BSQConfig, "flexframe_quantizers.binary:BSQ"),
        Component(ResidualVQConfig, "flexframe_quantizers.vq:ResidualVQ"),
        Component(ResidualFSQConfig, "flexframe_quantizers.fsq:ResidualFSQ"),
        Component(KLConfig, "flexframe_quantizers.continuous:KL"),
        Component(UnquantizedConfig, "flexframe_quantizers.continuous:Unquantized"),
    ]
