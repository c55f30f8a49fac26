"""Settings of priors of continuous tokens whose head denoises each token by itself. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from flexframe_registry import CodesSpec, PriorConfig, SamplingConfig


class DenoisingSampling(SamplingConfig):
    """Each token by a chain of denoising, with classifier-free guidance within the head."""

    steps: int = Field(100, ge=2, le=1000)
    """Steps of denoising of each token."""
    temperature: float = Field(1.0, ge=0)
    """Factor of the noise that each step adds; 0 adds none."""
    guidance: float = 1.0
    """Scale: unconditional + guidance (conditional - unconditional), so 1 is none."""
    guidance_schedule: Literal["linear", "constant"] = "linear"
    """Let guidance grow from 1 with the share of tokens that are drawn, to `guidance` at the last; or keep it."""

    bound: float | None = Field(None, gt=0)
    """Of a diffusion: clamp what each step takes for the token, in deviations, so that no chain of a head that has
    learned little runs away; published models are without."""

    @classmethod
    def quick(cls) -> DenoisingSampling:
        return cls(steps=2)

    @property
    def guided(self) -> bool:
        """Tell whether guidance does anything."""
        return self.guidance != 1

    def scale(self, done: float) -> float:
        """The guidance of tokens with which a share `done` of all is drawn."""
        return 1 + (self.guidance - 1) * done if self.guidance_schedule == "linear" else self.guidance


class DenoisingConfig(PriorConfig):
    """Base of the configs of such priors: the head's settings."""

    continuous = True
    sampling = DenoisingSampling

    head_width: int = Field(1024, ge=1)
    """Width of the head's layers."""
    head_depth: int = Field(6, ge=1)
    """Residual layers of the head."""
    condition: Literal["added", "joined"] = "added"
    """Add what the trunk says of a token to the time, and modulate the head's layers by the sum (arXiv 2406.11838); or
    modulate by the time alone, and join it to what each layer reads (arXiv 2503.08685)."""
    process: Literal["diffusion", "flow"] = "diffusion"
    """Diffusion of 1000 steps by a cosine, with the noise predicted and its variance learned; or a rectified flow, with
    the velocity predicted and sampled as a stochastic differential equation."""
    repeats: int = Field(4, ge=1)
    """Training: noised copies of each token in a step, which spare passes of the trunk."""
    class_dropout: float = Field(0.1, ge=0, le=1)
    """Training: probability that a row's class or text is hidden, for guidance."""

    def doubts_of_codes(self, spec: CodesSpec, steps: int) -> Iterable[tuple[str, str]]:
        for name, value in () if spec.classes or spec.text else self.changed("class_dropout"):
            yield name, f"{value:g} does nothing without classes; set `classes`, or leave it out"
