"""Length maskers: how many tokens of each image training keeps, and so at which lengths a model can be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from flexframe_registry import Component, MaskerConfig, Spec, hookimpl


def powers_of_two(length: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to and including `length`, a power of two."""
    return tuple(1 << i for i in range(length.bit_length()))


def need_power_of_two(name: str, length: int) -> None:
    if length & (length - 1):
        raise ValueError(f"masker {name!r} needs a length that is a power of two, not {length}; use 'uniform'")


class FullConfig(MaskerConfig):
    """Every token, always: a fixed-length tokenizer (TiTok)."""

    masked = False
    type: Literal["full"] = "full"

    def budgets(self, length: int) -> tuple[int, ...]:
        return (length,)


class UniformConfig(MaskerConfig):
    """Nested dropout with k ~ U{1..length}, one draw a sample (FlexTok's `uniform`)."""

    type: Literal["uniform"] = "uniform"

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(range(1, length + 1))


class Pow2Config(MaskerConfig):
    """Nested dropout with k uniform over {1, 2, 4, ..., length} (FlexTok's `pow2`)."""

    type: Literal["pow2"] = "pow2"

    def budgets(self, length: int) -> tuple[int, ...]:
        return powers_of_two(length)

    def check(self, spec: Spec) -> None:
        need_power_of_two(self.type, spec.tokens.length)


class UniformPow2Config(MaskerConfig):
    """Nested dropout with k ~ U{1..length} rounded up to a power of two (FlexTok's `uniform_pow2`).

    P(length) = 1/2, P(length/2) = 1/4, ..., P(2) = P(1) = 1/length.
    """

    type: Literal["uniform-pow2"] = "uniform-pow2"

    def budgets(self, length: int) -> tuple[int, ...]:
        return powers_of_two(length)

    def check(self, spec: Spec) -> None:
        need_power_of_two(self.type, spec.tokens.length)


class TailDropConfig(MaskerConfig):
    """k ~ U{1..length}, one draw a batch; the dropped tail is not there at all (One-D-Piece, arXiv 2501.10064)."""

    masked = False
    type: Literal["tail-drop"] = "tail-drop"

    def budgets(self, length: int) -> tuple[int, ...]:
        return tuple(range(1, length + 1))


@hookimpl
def flexframe_components() -> Iterable[Component]:
    return [
        Component(FullConfig, "flexframe_lengths.maskers:Full"),
        Component(UniformConfig, "flexframe_lengths.maskers:Uniform"),
        Component(Pow2Config, "flexframe_lengths.maskers:Pow2"),
        Component(UniformPow2Config, "flexframe_lengths.maskers:UniformPow2"),
        Component(TailDropConfig, "flexframe_lengths.maskers:TailDrop"),
    ]
