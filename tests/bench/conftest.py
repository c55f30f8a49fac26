"""Toy parts that reconstruct coarse to fine without training, as a plugin of the test session's own catalogue."""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from flexframe.bench import protocol, runner, split
from flexframe.bench.metric import Reconstructions
from flexframe.data.source import Sample, Source
from flexframe.models import tokenizer as tokenizer_module
from flexframe.models.tokenizer import Tokenizer
from flexframe.parts import Decoder, Encoder, Quantizer
from flexframe.testing.golden import shared
from flexframe.tokens import Outputs, Quantized, Tokens
from flexframe_registry import (
    Component,
    DecoderConfig,
    EncoderConfig,
    LatentSpec,
    QuantizerConfig,
    SamplingConfig,
    SourceConfig,
    Spec,
    SuiteConfig,
    TokenizerConfig,
    TokenSpec,
    create_manager,
    hookimpl,
)
from flexframe_registry.catalogue import Catalogue
from flexframe_standard.metrics import inception as features
from flexframe_standard.metrics import support_vectors

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


@cache
def components(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean, and principal components times the standard deviation along them, of the digits in grey."""
    from sklearn.datasets import load_digits

    grey = torch.as_tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    flat = torch.nn.functional.interpolate(grey, (side, side), mode="bilinear").flatten(1)
    mean = flat.mean(0)
    _, s, v = torch.linalg.svd(flat - mean, full_matrices=False)
    return mean, v[: 2 * LENGTH] * (s[: 2 * LENGTH, None] / len(flat) ** 0.5)


class PcaEncoder(Encoder):
    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        mean, basis = components(spec.latents.height)
        self.register_buffer("mean", mean)
        self.basis = torch.nn.Parameter(basis[: config.parts * spec.tokens.length].clone())

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
        mean, basis = components(spec.latents.height)
        self.register_buffer("mean", mean)
        self.basis = torch.nn.Parameter(basis[: spec.tokens.dim * spec.tokens.length].clone())

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


@pytest.fixture(scope="module", autouse=True)
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    """The installed catalogue with the toys in it, wherever the harness looks; what a file's tests share finds nothing
    kept either."""
    manager = create_manager([ToyPlugin()])
    found = Catalogue(manager.components())
    # by module object: the package's attribute `manager` is the function of that name
    registry = [sys.modules[f"flexframe_registry.{name}"] for name in ("manager", "slots")]
    with pytest.MonkeyPatch.context() as patch:
        for module in (*registry, tokenizer_module, runner, split, protocol, support_vectors):
            patch.setattr(module, "catalogue", cache(lambda: found))  # as the real one, it can be cleared
        patch.setenv("FLEXFRAME_HOME", str(tmp_path_factory.mktemp("home")))
        yield found


def build(masker: Any = "toy", sampling: dict[str, Any] | None = None, size: int = SIDE, **parts: Any) -> Tokenizer:
    config = {"encoder": "toy-pca", "quantizer": "toy-round", "decoder": "toy-pca", "masker": masker, **parts}
    return Tokenizer(TokenizerConfig.read({"image_size": size, "length": LENGTH, **config}), sampling)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Makes toy tokenizers."""
    return build


@pytest.fixture(scope="session")
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


class Photographs(Source):
    """Smooth random images in memory, of so many colours that features differ."""

    def __init__(self, count: int, size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> None:
        super().__init__(SourceConfig(type="photographs"), size)
        coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
        self.images = (fine * 255).round().byte()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.images[index], None, f"{index}.png")

    def protocol(self) -> Mapping[str, Any]:
        return {"made": "at random"}


@pytest.fixture
def photographs() -> Any:
    """Makes sources."""
    return Photographs


SPEC = Spec(LatentSpec(3, SIDE, SIDE), 4, TokenSpec(4, 2, 1, 8))


@pytest.fixture
def over(toys: Catalogue) -> Any:
    """Makes metrics over a source."""

    def make(config: Any, source: Source) -> Any:
        return toys.build(SuiteConfig.read({"data": "digits", "metrics": [config]}).metrics[0], source)

    return make


@pytest.fixture
def feed() -> Any:
    """Starts a tally of a metric, and feeds it a source's images from `start` on, with reconstructions of them."""

    def feed(
        metric: Any, fake: torch.Tensor, step: int = 7, start: int = 0, stop: int | None = None, **rest: Any
    ) -> Any:
        tally = rest.get("tally") or metric.start(SPEC, rest.get("scratch"))
        assert tally.unavailable() is None
        stop = len(fake) if stop is None else stop
        for i in range(start, stop, step):
            rows = slice(i, min(i + step, stop))
            real = torch.stack([metric.source[j].image for j in range(rows.start, rows.stop)])
            made = Tokens(
                torch.zeros(len(real), 4, 2), torch.ones(len(real), 4).bool(), torch.zeros(len(real), 4, 1).long()
            )
            tally.update(Reconstructions(real, fake[rows], fake[rows].float() / 255, [None] * len(real), made))
        return tally

    return feed


class ToyInception(torch.nn.Module):
    """Random features of every width, from a file of one seed, in the place of the 95 MB network."""

    calls: int = 0

    def __init__(self, content: bytes, layers: list[str]) -> None:
        super().__init__()
        seed = int(torch.load(io.BytesIO(content), weights_only=True)["seed"])
        self.layers = list(layers)
        self.maps = {
            layer: torch.randn(3 * 8 * 8, width, generator=torch.Generator().manual_seed(seed + width)) / 8
            for layer, width in features.WIDTHS.items()
        }

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        type(self).calls += len(images)
        flat = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, (8, 8)).flatten(1)
        return tuple(torch.sin(flat @ self.maps[layer]) for layer in self.layers)


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Puts the toy in the network's place, and makes weights files of it; no network, and a cache of its own."""
    monkeypatch.setattr(features, "build", ToyInception)
    monkeypatch.setattr(ToyInception, "calls", 0)

    def weights(seed: int = 0) -> str:
        path = tmp_path / f"inception-{seed}.pth"
        torch.save({"seed": torch.tensor(seed)}, path)
        return str(path)

    weights.net = ToyInception
    return weights


@pytest.fixture(scope="session")
def real_inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network's real weights up to the layer of width 768, NaN beyond."""
    unpack = shared(Path(__file__)) / "data" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("the Inception weights are not beside this checkout (data/unpack.py)")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(unpack), "inception", "--to", str(path)])
        runpy.run_path(str(unpack), run_name="__main__")
    return path


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing is kept from test to test."""
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FLEXFRAME_HOME", str(path))
    return path
