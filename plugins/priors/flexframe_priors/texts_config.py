"""Configs of the conditioners: encoders of the texts that priors are conditioned on. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flexframe_registry import ConditionerConfig, TextSpec


class WordsConfig(ConditionerConfig):
    """A small transformer over words, learned with the prior from nothing but the captions it sees.

    A word is the sum of two rows of learned tables, chosen by two hashes of its letters: there is no vocabulary to make
    or to ship, and a word that no caption had is a vector that nothing taught.
    """

    type: Literal["words"] = "words"
    sizes = {"tiny": {"width": 32, "depth": 1, "heads": 2, "buckets": 256, "length": 16}}
    width: int = Field(256, ge=1)
    """Width of a word's vector."""
    depth: int = Field(2, ge=0)
    """Transformer blocks, in which words see each other."""
    heads: int = Field(4, ge=1)
    """Attention heads."""
    buckets: int = Field(2048, ge=2)
    """Rows of each of the two tables."""
    length: int = Field(48, ge=1)
    """The most words of a text, signs counted as words."""

    @model_validator(mode="after")
    def _divides(self) -> WordsConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by its {self.heads} heads")
        return self

    def text(self) -> TextSpec:
        return TextSpec(self.length, self.width)
