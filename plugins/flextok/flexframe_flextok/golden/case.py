"""A golden case and the model it is compared with; what several cases compute."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexframe.importing import TensorFile
from flexframe.importing.compare import ATOL, Comparison, compare
from flexframe.models.build import Model, assemble
from flexframe.models.tokenizer import Tokenizer
from flexframe.rng import Rng
from flexframe.testing.tables import TableRng
from flexframe.tokens import Tokens, prefix
from flexframe_registry import ConfigError, TokenizerConfig

from .. import FlowSampling

GUIDED = 3e-5
"""Tolerance after several guided steps; one pass has `compare`'s."""
DETOKENIZE = {"guidance": 3.0, "apg": True}
MIXED = 4
"""Tokens of each row of `velocity_null_mixed`, and of the first of `case_vae`'s `detok_images`."""


@dataclass(frozen=True)
class Subject:
    """The model to compare, and what its checkpoint says beside its config."""

    model: Model
    names: Mapping[str, str] = field(default_factory=dict)
    """The file's name of each tensor of ours."""
    inner_layers: tuple[int, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model, which must be a tokenizer.

        Raises:
            ConfigError: the model is of another kind.
        """
        if not isinstance(self.model, Tokenizer):
            raise ConfigError.at("", f"is a case of a tokenizer, and this is a {type(self.model).__name__}")
        return self.model

    @property
    def length(self) -> int:
        """Most tokens of an image."""
        return self.tokenizer.spec.tokens.length


class Case:
    """The tensors of one file, and which of them were used."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.tensors = path, path.stem, TensorFile([path])
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ConfigError.at(str(self.path), f"has no {name!r}, from which its results were computed")
        self._used.add(name)
        return self.tensors[name]

    def matching(self, pattern: str) -> list[re.Match[str]]:
        """Names that are of a form."""
        return [match for name in self.tensors if (match := re.fullmatch(pattern, name))]

    def check(
        self, name: str, result: Callable[[], Tensor], atol: float = ATOL, rtol: float = 0.0, note: str = ""
    ) -> Iterator[Comparison]:
        """Compare a result, if the case has it."""
        if name in self.tensors:
            yield compare(self.name, name, result(), self[name], atol, rtol, note)

    def finish(self) -> None:
        """Check that every tensor of the case was compared.

        Raises:
            ConfigError: some were not; they are named.
        """
        left = sorted(self.tensors.keys() - self._used)
        if left:
            raise ConfigError.at(str(self.path), f"has tensors that nothing here compares: {', '.join(left)}")


# --- the model's parts -------------------------------------------------------------------------------------------


def variant(tokenizer: Tokenizer, **parts: Mapping[str, Any]) -> Tokenizer:
    """The same weights under settings that are others."""
    raw = tokenizer.config.model_dump(mode="json")
    for part, fields in parts.items():
        raw[part] |= fields
    return assemble(TokenizerConfig.read(raw), tokenizer.state_dict(), "golden case")  # type: ignore[return-value]


def fsq_of(tokenizer: Tokenizer) -> Any:
    """The quantizer, which an imported FlexTok has of the one kind."""
    return tokenizer.quantizer


@torch.no_grad()
def values_of(tokenizer: Tokenizer, latents: Tensor) -> Tensor:
    """Token values before the quantizer."""
    keep = torch.ones(len(latents), tokenizer.spec.tokens.length, dtype=torch.bool)
    return fsq_of(tokenizer).project(tokenizer.encoder(latents, keep))


@torch.no_grad()
def quantize(tokenizer: Tokenizer, latents: Tensor) -> Any:
    """Encode and quantize latents `b c y x` at full length; no codec, no masking."""
    keep = torch.ones(len(latents), tokenizer.spec.tokens.length, dtype=torch.bool)
    rng = Rng(0, torch.arange(len(latents)))
    return tokenizer.quantizer(tokenizer.encoder(latents, keep), keep, rng=rng)


def tokens_of(values: Tensor, lengths: Tensor | int) -> Tokens:
    """Tokens of these values, so many of each row."""
    keep = prefix(torch.as_tensor(lengths).expand(len(values)), values.shape[1])
    return Tokens(values, keep, torch.zeros(*values.shape[:2], 1, dtype=torch.long))


@torch.no_grad()
def velocity(
    tokenizer: Tokenizer, x: Tensor, times: Tensor, tokens: Tokens, null: Tensor | None = None, tap: str | None = None
) -> Any:
    """The decoder's velocity, or the features of one tap."""
    decoder: Any = tokenizer.decoder
    taps = frozenset() if tap is None else frozenset({tap})
    result, features = decoder.velocity(x, times, decoder.registers(tokens, null), tokens.keep, taps, null)
    return result if tap is None else features[tap]


def by_length(
    golden: Tensor, run: Callable[[Tensor], Tensor], guess: Tensor, most: int, null: Tensor | None = None
) -> tuple[Tensor, str]:
    """A result whose lengths the case does not hold: those of the description, else of 1..most the ones that fit.

    Rows do not depend on each other, so that each row's length is found by itself; a wrong model fits at none.

    Args:
        null: the result without tokens, where some rows may be of that: which ones, the case does not hold either.
    """
    known = [run(guess), *([] if null is None else [null])]
    if known[0].shape != golden.shape:
        return known[0], ""
    result, _ = _nearest(golden, known)
    if float((result - golden).abs().max()) <= GUIDED:
        return result, ""
    tried = [run(torch.full_like(guess, k)) for k in range(1, most + 1)]
    result, which = _nearest(golden, [*tried, *known[1:]])
    told = ", ".join("null" if i == most else str(i + 1) for i in which.tolist())
    return result, f"lengths [{told}], found by trying all"


def _nearest(golden: Tensor, results: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each row the nearest of several results, and which that is."""
    tried = torch.stack(list(results))
    best = (tried - golden).abs().flatten(2).amax(-1).argmin(0)
    return tried[best, torch.arange(len(golden))], best


@torch.no_grad()
def detokenize(tokenizer: Tokenizer, tokens: Tokens, noise: Tensor, steps: int) -> Tensor:
    """Decode tokens to latents `b c y x` from this noise, as the reference's detokenizer does."""
    rng = TableRng({"decoder/sample": noise}, len(noise))
    size = (noise.shape[2], noise.shape[3])
    settings = FlowSampling.read({"steps": steps, **DETOKENIZE})
    return tokenizer.decoder.decode(tokens, condition=None, size=size, rng=rng, sampling=settings)
