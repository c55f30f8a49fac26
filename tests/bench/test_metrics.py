"""Each metric against a computation of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from flexframe.contracts import Reconstructions, Sample, Source
from flexframe.tokens import Tokens
from flexframe_registry import SourceConfig, Spec, SuiteConfig
from flexframe_registry.configs import LatentSpec, TokenSpec


class Images(Source):
    """A source of so many black images without labels."""

    def __init__(self, count: int = 5, size: tuple[int, int] = (16, 16)) -> None:
        super().__init__(SourceConfig(type="images"), size)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(3, *self.size, dtype=torch.uint8), None, str(index))

    def protocol(self) -> Mapping[str, Any]:
        return {}


def spec(size: int | None = 8, codebooks: int = 1) -> Spec:
    return Spec(LatentSpec(3, 16, 16), 4, TokenSpec(4, 2, codebooks, size))


def tokens(codes: torch.Tensor, keep: torch.Tensor | None = None) -> Tokens:
    shape = codes.shape[:2]
    return Tokens(torch.zeros(*shape, 2), torch.ones(shape, dtype=torch.bool) if keep is None else keep, codes)


def batch(real: torch.Tensor, fake: torch.Tensor, made: Tokens, labels: Any = None) -> Reconstructions:
    return Reconstructions(real, fake, fake.float() / 255, labels or [None] * len(real), made)


@pytest.fixture
def metric(toys: Any) -> Any:
    """Makes a tally of a metric over a source that says only its size and count."""

    def make(config: Any, source: Any = None, spec_: Spec | None = None) -> Any:
        read = SuiteConfig.read({"data": "digits", "metrics": [config]}).metrics[0]
        return toys.build(read, source or Images()).start(spec_ or spec())

    return make


def feed(tally: Any, real: torch.Tensor, fake: torch.Tensor, codes: torch.Tensor | None = None, step: int = 6) -> Any:
    codes = torch.zeros(len(real), 4, 1, dtype=torch.long) if codes is None else codes
    found: dict[str, list[float]] = {}
    for i in range(0, len(real), step):
        rows = slice(i, i + step)
        values = tally.update(batch(real[rows], fake[rows], tokens(codes[rows])))
        for name, value in values.items():
            found.setdefault(name, []).extend(value.tolist())
    return found


@pytest.mark.parametrize("step", [1, 4, 6])
def test_psnr_is_the_mean_of_each_images_own(metric: Any, pictures: torch.Tensor, step: int) -> None:
    fake = pictures.clone()
    fake[1:] = fake[1:] // 2
    tally = metric("psnr")
    found = feed(tally, pictures, fake, step=step)["psnr"]
    a, b = pictures.numpy().astype(float), fake.numpy().astype(float)
    expected = [100.0] + [20 * math.log10(255) - 10 * math.log10(((a[i] - b[i]) ** 2).mean()) for i in range(1, 6)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert tally.compute()["psnr"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert tally.protocol()["cap_db"] == 100.0


def test_psnr_can_be_that_of_8_bit_files(metric: Any, pictures: torch.Tensor) -> None:
    near = Reconstructions(
        pictures, pictures, pictures / 255 + 0.4 / 255, [None] * 6, tokens(torch.zeros(6, 4, 1).long())
    )
    plain, rounded = metric("psnr"), metric({"type": "psnr", "rounded": True})
    plain.update(near)
    rounded.update(near)
    assert plain.compute()["psnr"] == pytest.approx(20 * math.log10(255 / 0.4), abs=1e-3)
    assert rounded.compute()["psnr"] == 100
    assert plain.protocol() != rounded.protocol()


def test_ssim_is_one_for_equal_images_and_lower_for_others(metric: Any, pictures: torch.Tensor) -> None:
    fake = pictures.clone()
    fake[3:] = 255 - fake[3:]
    found = feed(metric("ssim"), pictures, fake)["ssim"]
    assert found[:3] == pytest.approx([1, 1, 1], abs=1e-6)
    assert max(found[3:]) < 0


def test_ssim_of_images_below_its_window_is_unavailable(metric: Any) -> None:
    why = metric("ssim", Images(size=(16, 8))).unavailable()
    assert "8 pixels" in why
    assert "window is 11" in why
    assert metric({"type": "ssim", "sigma": 1.0}, Images(size=(16, 9))).unavailable() is None


def test_codebook_counts_present_tokens_only(metric: Any, pictures: torch.Tensor) -> None:
    tally = metric("codebook")
    codes = torch.tensor([[0, 1, 7, 7], [0, 1, 7, 7]])[..., None]
    keep = torch.tensor([[True, True, False, False], [True, True, False, False]])
    tally.update(batch(pictures[:2], pictures[:2], tokens(codes, keep)))
    assert tally.compute() == pytest.approx({"usage": 25.0, "perplexity": 2.0})


def test_codebook_averages_over_several_codebooks(metric: Any, pictures: torch.Tensor) -> None:
    tally = metric("codebook", spec_=spec(4, 2))
    codes = torch.tensor([[[0, 0], [0, 1], [0, 2], [0, 3]]])
    tally.update(batch(pictures[:1], pictures[:1], tokens(codes)))
    assert tally.compute() == pytest.approx({"usage": 62.5, "perplexity": 2.5})


def test_continuous_tokens_have_no_codebook(metric: Any) -> None:
    assert "continuous" in metric("codebook", spec_=spec(None)).unavailable()


def test_bits_are_those_of_the_tokens_that_are_present(metric: Any, pictures: torch.Tensor) -> None:
    tally = metric("bits", spec_=spec(8, 2))
    codes = torch.zeros(3, 4, 2, dtype=torch.long)
    keep = torch.tensor([[True, False, False, False], [True, True, False, False], [True] * 4])
    found = tally.update(batch(pictures[:3], pictures[:3], tokens(codes, keep)))
    assert found["bits"].tolist() == [6, 12, 24]
    assert tally.compute() == pytest.approx({"bits": 14, "length": 7 / 3})
    assert "continuous" in metric("bits", spec_=spec(None)).unavailable()


def test_tallies_of_one_metric_do_not_mix(metric: Any, pictures: torch.Tensor) -> None:
    first = metric("psnr")
    second = first.start(spec())
    feed(first, pictures, pictures)
    feed(second, pictures, pictures // 2)
    assert first.compute()["psnr"] == 100
    assert second.compute()["psnr"] < 20


def test_classifier_agrees_with_itself_and_knows_the_digits(toys: Any, metric: Any) -> None:
    data = SuiteConfig.read({"data": {"type": "digits", "split": "val"}, "metrics": []}).data
    source = toys.build(data, (8, 8))
    tally = metric({"type": "classifier", "data": "digits", "limit": 600}, source)
    assert tally.unavailable() is None
    samples = [source[i] for i in range(100)]
    real, labels = torch.stack([s.image for s in samples]), [s.label for s in samples]
    codes = tokens(torch.zeros(100, 4, 1, dtype=torch.long))
    tally.update(batch(real, real, codes, labels))
    found = tally.compute()
    assert found["agreement"] == 100
    assert found["accuracy"] > 90
    assert tally.protocol()["accuracy_on_originals_percent"] == found["accuracy"]
    assert tally.protocol()["training_images"] == 600
    tally.update(batch(real, torch.zeros_like(real), codes, labels))
    assert tally.compute()["agreement"] < 70


def test_classifier_wants_labels(metric: Any) -> None:
    assert "no labels" in metric({"type": "classifier", "data": "digits"}, Images()).unavailable()
