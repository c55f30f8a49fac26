"""Lengths: maskers say how many tokens of each image training keeps, allocators how many each image gets at use."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, field_validator

from flexframe_registry import AllocatorConfig, Component, MaskerConfig, Spec, catalogue, hookimpl
from flexframe_registry.config import PLACE


def powers_of_two(length: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to and including `length`, a power of two."""
    return tuple(1 << i for i in range(length.bit_length()))


def need_power_of_two(name: str, length: int) -> None:
    """Check that a masker's length is a power of two.

    Raises:
        ValueError: it is not.
    """
    if length & (length - 1):
        raise ValueError(f"masker {name!r} needs a length that is a power of two, not {length}; use 'uniform'")


class NestedConfig(MaskerConfig):
    """Base of nested dropout: each sample keeps a prefix of a drawn length."""

    whole_batch: bool = False
    """Draw one length for all samples of a batch, so that its sequences are really that short: steps take less time
    (two thirds of it for `flextok/scenes-64` under `pow2`: benchmarks/scripts/cpu_step.py), and train one length."""
    begin: int = Field(0, ge=0)
    """The first step at which tokens are dropped; before it all are kept."""

    later = frozenset({"begin"})

    def doubts(self, spec: Spec, steps: int) -> Iterable[tuple[str, str]]:
        if self.begin >= steps:
            yield "begin", f"{self.begin} is after the last of {steps} steps, so no token is ever dropped; lower it"


class UniformConfig(NestedConfig):
    """Nested dropout with k ~ U{1..length}, one draw a sample (FlexTok's `uniform`)."""

    type: Literal["uniform"] = "uniform"

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(range(1, length + 1))


class Pow2Config(NestedConfig):
    """Nested dropout with k uniform over {1, 2, 4, ..., length} (FlexTok's `pow2`)."""

    type: Literal["pow2"] = "pow2"

    def budgets(self, length: int) -> tuple[int, ...]:
        return powers_of_two(length)

    def check(self, spec: Spec) -> None:
        need_power_of_two(self.type, spec.tokens.length)


class UniformPow2Config(NestedConfig):
    """Nested dropout with k ~ U{1..length} rounded up to a power of two (FlexTok's `uniform_pow2`).

    P(length) = 1/2, P(length/2) = 1/4, ..., P(2) = P(1) = 1/length.
    """

    type: Literal["uniform-pow2"] = "uniform-pow2"

    def budgets(self, length: int) -> tuple[int, ...]:
        return powers_of_two(length)

    def check(self, spec: Spec) -> None:
        need_power_of_two(self.type, spec.tokens.length)


class DoublingConfig(NestedConfig):
    """Nested dropout of whole levels (ResTok, arXiv 2601.03955): mostly all are kept; else k is `least`, twice that,
    and so on below K, with probabilities in proportion to k."""

    type: Literal["doubling"] = "doubling"
    least: int = Field(1, ge=1)
    """The shortest length: lengths are powers of two from here on."""
    drop: float = Field(0.2, ge=0, le=1)
    """Share of samples that lose tokens."""

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(k for k in powers_of_two(length) if k >= self.least)

    def check(self, spec: Spec) -> None:
        need_power_of_two(self.type, spec.tokens.length)
        if self.least > spec.tokens.length:
            raise ValueError(f"least is {self.least}, and the model has {spec.tokens.length} tokens; lower it")


class TailDropConfig(MaskerConfig):
    """k ~ U{1..length}, one draw a batch; the dropped tail is not there at all (One-D-Piece, arXiv 2501.10064)."""

    masked = False
    type: Literal["tail-drop"] = "tail-drop"

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(range(1, length + 1))


class ByReconstructionConfig(AllocatorConfig):
    """Base of allocators that decode an image at several lengths and look at the result."""

    budgets: tuple[int, ...] | None = None
    """Lengths to try; the model's own if null. Each costs a reconstruction."""
    sampling: dict[str, Any] = {}
    """Decoder settings while choosing, laid on the model's own; fewer steps choose faster."""

    @field_validator("budgets")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or min(value) < 1):
            raise ValueError(f"budgets are lengths of at least 1, and at least one of them, not {value}")
        return None if value is None else tuple(sorted(set(value)))

    def check(self, spec: Spec) -> None:
        if self.budgets is not None and self.budgets[-1] > spec.tokens.length:
            raise ValueError(f"a budget of {self.budgets[-1]} tokens; the model has at most {spec.tokens.length}")


class PsnrConfig(ByReconstructionConfig):
    """The shortest length whose reconstruction reaches `target`, else the longest (after ElasticTok, 2410.08368)."""

    type: Literal["psnr"] = "psnr"

    target: float = 22.0
    """PSNR to reach, in dB, of the 8-bit reconstruction."""


class RateDistortionConfig(ByReconstructionConfig):
    """The length with the least error plus `price` a token: among all choices of the same mean length, the least error.

    Lagrangian rate control (Everett 1963; Shoham and Gersho 1988): one price for all images spends tokens where they
    save most, and still each image is decided by itself.
    """

    type: Literal["rate-distortion"] = "rate-distortion"

    price: float = Field(10.0, ge=0)
    """Mean squared error, in squared 8-bit steps, that one more token must save. 0 takes the length of least error."""


class LearnedConfig(AllocatorConfig):
    """The shortest length at which a small head says that `psnr` would stop: learned from its answers, it reads the
    frozen encoder's features of the image alone, and nothing is decoded (after ElasticTok's and ALIT's halting)."""

    type: Literal["learned"] = "learned"

    head: str = Field(json_schema_extra=PLACE)
    """File of a head that `python -m flexframe_lengths` trained for this very tokenizer."""
    stop: float = Field(0.5, gt=0, lt=1)
    """Chance of having reached the target from which an image takes no more tokens; higher is safer and longer."""


@hookimpl
def flexframe_components() -> Iterable[Component]:
    """List the plugin's components."""
    return [
        Component(UniformConfig, "flexframe_lengths.maskers:Uniform"),
        Component(Pow2Config, "flexframe_lengths.maskers:Pow2"),
        Component(UniformPow2Config, "flexframe_lengths.maskers:UniformPow2"),
        Component(DoublingConfig, "flexframe_lengths.maskers:Doubling"),
        Component(TailDropConfig, "flexframe_lengths.maskers:TailDrop"),
        Component(PsnrConfig, "flexframe_lengths.allocators:Psnr"),
        Component(RateDistortionConfig, "flexframe_lengths.allocators:RateDistortion"),
        Component(LearnedConfig, "flexframe_lengths.learned:Learned"),
    ]


def __getattr__(name: str) -> Any:
    """Names that moved to `flexframe_standard`, for one minor version."""
    if name != "FullConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("FullConfig is in flexframe_standard now, and leaves here in 0.3", DeprecationWarning, stacklevel=2)
    return catalogue().get("masker", "full").config
