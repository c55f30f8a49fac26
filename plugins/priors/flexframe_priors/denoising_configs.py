"""Settings of the priors of continuous tokens whose head denoises each token by itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flexframe.nn.denoiser_config import DenoisingConfig, DenoisingSampling
from flexframe_registry import ImporterConfig

HEAD = {
    "tiny": {"head_width": 64, "head_depth": 2},
    "small": {"head_width": 512, "head_depth": 3},
    "base": {"head_width": 1024, "head_depth": 6},
    "large": {"head_width": 1536, "head_depth": 12},
}


class CausalDenoisingSampling(DenoisingSampling):
    """One token after the other, each by a chain of denoising, with classifier-free guidance within the head."""

    steps: int = Field(250, ge=2, le=1000)
    """Steps of denoising of each token."""
    cache: bool = True
    """Keep keys and values of earlier tokens; it moves no number beyond rounding."""


class CausalDenoisingConfig(DenoisingConfig):
    """A decoder-only transformer of continuous tokens, one after the other, whose head denoises each: eps-LlamaGen, the
    generator of Semanticist (arXiv 2503.08685, section 3.3)."""

    type: Literal["causal-denoising"] = "causal-denoising"
    texts = True
    sampling = CausalDenoisingSampling
    sizes = {
        "tiny": {"width": 64, "depth": 2, "heads": 2, **HEAD["tiny"]},
        "small": {"width": 384, "depth": 6, "heads": 6, **HEAD["small"]},
        "large": {"width": 1024, "depth": 24, "heads": 16, **HEAD["large"]},
    }

    width: int = Field(768, ge=1)
    """Transformer width."""
    depth: int = Field(12, ge=1)
    """Transformer blocks."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of embedded tokens and of what attention and feed-forward layers give."""
    condition: Literal["added", "joined"] = "joined"
    """Join what the trunk says of a token to what each of the head's layers reads, and modulate these by the time alone
    (arXiv 2503.08685); or add it to the time (arXiv 2406.11838)."""
    process: Literal["diffusion", "flow"] = "flow"
    """A rectified flow, sampled as a stochastic differential equation; or a diffusion of 1000 steps by a cosine, with
    the noise predicted and its variance learned."""

    @model_validator(mode="after")
    def _sizes(self) -> CausalDenoisingConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self

    @property
    def hidden(self) -> int:
        """Width inside the feed-forward layers: 8/3 of the width, up to a multiple of 256."""
        return -(-(8 * self.width // 3) // 256) * 256


class MARSampling(DenoisingSampling):
    """Passes, each of which draws some more tokens anywhere, with classifier-free guidance within the head."""

    passes: int = Field(64, ge=1)
    """Passes of the trunk; more than there are tokens are as many as there are."""


class MARConfig(DenoisingConfig):
    """Masked autoregression (Li et al., arXiv 2406.11838): a transformer that sees some tokens, in any order, and whose
    head denoises others."""

    type: Literal["mar"] = "mar"
    texts = True
    sampling = MARSampling
    sizes = {
        "tiny": {"width": 64, "depth": 1, "heads": 2, "buffer": 4, **HEAD["tiny"]},
        "small": {"width": 384, "depth": 4, "heads": 6, "buffer": 16, **HEAD["small"]},
        "large": {"width": 1024, "depth": 16, "heads": 16, "head_width": 1280, "head_depth": 8},
    }

    width: int = Field(768, ge=1)
    """Transformer width."""
    depth: int = Field(12, ge=1)
    """Blocks of the encoder, which does not see masked tokens, and as many of the decoder, which sees that they are
    there."""
    heads: int = Field(12, ge=1)
    """Attention heads."""
    buffer: int = Field(64, ge=1)
    """Copies of the class before the tokens."""
    least_masked: float = Field(0.7, ge=0, le=1)
    """Training: the least share of tokens that is masked; shares are drawn from a normal about 1, of deviation 0.25,
    between there and 1."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of what attention and feed-forward layers give."""
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    """Training: dropout of attention weights."""

    @model_validator(mode="after")
    def _sizes(self) -> MARConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self


class EpsLlamaGenImporterConfig(ImporterConfig):
    """Checkpoints of visual-gen/semanticist's generators (`tennant/semanticist`), with config or without."""

    type: Literal["eps-llamagen"] = "eps-llamagen"


class MARImporterConfig(ImporterConfig):
    """Checkpoints of LTH14/mar's generators (MAR-B, -L and -H): `checkpoint-last.pth`, or the state by itself."""

    type: Literal["mar"] = "mar"
