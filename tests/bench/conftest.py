"""Toy parts that reconstruct coarse to fine without training, as a plugin of the test session's own catalogue."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pytest
import torch

from flexframe import tokenizer as tokenizer_module
from flexframe.bench import protocol, runner
from flexframe.builtin import metrics
from flexframe.contracts import Decoder, Encoder, Quantizer
from flexframe.tokenizer import Tokenizer
from flexframe.tokens import Outputs, Quantized
from flexframe_registry import (
    Component,
    DecoderConfig,
    EncoderConfig,
    QuantizerConfig,
    SamplingConfig,
    Spec,
    SuiteConfig,
    TokenizerConfig,
    TokenSpec,
    create_manager,
    hookimpl,
)
from flexframe_registry.catalogue import Catalogue

SIDE = 16
LENGTH = 8


class PcaEncoderConfig(EncoderConfig):
    type: Literal["toy-pca"] = "toy-pca"
    parts: int = 2

    def features(self) -> int:
        return self.parts


class RoundConfig(QuantizerConfig):
    type: Literal["toy-round"] = "toy-round"
    levels: int = 16
    continuous: bool = False

    def tokens(self, length: int, features: int) -> TokenSpec:
        return TokenSpec(length, features, 1 if self.continuous else features, None if self.continuous else self.levels)


class PcaSampling(SamplingConfig):
    noise: float = 0.0


class PcaDecoderConfig(DecoderConfig):
    type: Literal["toy-pca"] = "toy-pca"
    sampling = PcaSampling


def components() -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and principal components times the standard deviation along them, of the digits in grey."""
    from sklearn.datasets import load_digits

    grey = torch.as_tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    flat = torch.nn.functional.interpolate(grey, (SIDE, SIDE), mode="bilinear").flatten(1)
    mean = flat.mean(0)
    _, s, v = torch.linalg.svd(flat - mean, full_matrices=False)
    return mean, v[: 2 * LENGTH] * (s[: 2 * LENGTH, None] / len(flat) ** 0.5)


class PcaEncoder(Encoder):
    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        mean, basis = components()
        self.register_buffer("mean", mean)
        self.basis = torch.nn.Parameter(basis[: config.parts * spec.tokens.length])

    def forward(self, latents, keep):
        flat = latents.mean(1).flatten(1) - self.mean
        found = flat @ (self.basis / self.basis.square().sum(1, keepdim=True)).T
        return found.reshape(len(latents), -1, self.config.parts)[:, : keep.shape[1]]


class Round(Quantizer):
    def forward(self, values, keep, *, rng):
        if self.config.continuous:
            return Quantized(values, values)
        half = self.config.levels / 2
        codes = (values * half / 3 + half).floor().long().clamp(0, self.config.levels - 1)
        return Quantized(self.lookup(codes), codes)

    def lookup(self, codes):
        half = self.config.levels / 2
        return codes if self.config.continuous else (codes + 0.5 - half) * 3 / half


class PcaDecoder(Decoder):
    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        mean, basis = components()
        self.register_buffer("mean", mean)
        self.basis = torch.nn.Parameter(basis[: spec.tokens.dim * spec.tokens.length])

    def forward(self, tokens, batch, *, taps, rng):
        return Outputs({})

    def decode(self, tokens, *, condition, size, rng, sampling):
        found = (tokens.values * tokens.keep[..., None]).flatten(1)
        grey = self.mean + found @ self.basis[: found.shape[1]]
        grey = grey + sampling.noise * rng.normal("toy/noise", grey.shape[1:])
        return grey.reshape(-1, 1, *size).expand(-1, 3, -1, -1)


class ToyPlugin:
    @hookimpl
    def flexframe_components(self) -> Iterable[Component]:
        return [
            Component(PcaEncoderConfig, f"{__name__}:PcaEncoder"),
            Component(RoundConfig, f"{__name__}:Round"),
            Component(PcaDecoderConfig, f"{__name__}:PcaDecoder"),
        ]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """The installed catalogue with the toys in it, wherever the harness looks."""
    manager = create_manager([ToyPlugin()])
    found = Catalogue(manager.components())
    # by module object: the package's attribute `manager` is the function of that name
    for module in (sys.modules["flexframe_registry.manager"], tokenizer_module, runner, protocol, metrics):
        monkeypatch.setattr(module, "catalogue", lambda: found)
    return found


def build(masker: str = "pow2", sampling: dict[str, Any] | None = None, size: int = SIDE, **parts: Any) -> Tokenizer:
    config = {"encoder": "toy-pca", "quantizer": "toy-round", "decoder": "toy-pca", "masker": masker, **parts}
    return Tokenizer(TokenizerConfig.read({"image_size": size, "length": LENGTH, **config}), sampling)


@pytest.fixture
def tokenizer() -> Any:
    """Makes toy tokenizers."""
    return build


@pytest.fixture
def suite() -> Any:
    """Makes suites over held-out digits."""

    def make(*metrics: Any, **fields: Any) -> SuiteConfig:
        data = {"type": "digits", "split": "val"}
        return SuiteConfig.read({"data": data, "count": 40, "metrics": metrics or ("psnr",), **fields})

    return make


@pytest.fixture
def pictures() -> torch.Tensor:
    """Random 8-bit images."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 3, SIDE, SIDE), dtype=np.uint8))
