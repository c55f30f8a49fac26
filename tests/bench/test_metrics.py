"""Each metric against a computation of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from flexframe.bench.metric import Reconstructions
from flexframe.data.source import Sample, Source
from flexframe.tokens import Tokens
from flexframe_registry import SourceConfig, Spec, SuiteConfig
from flexframe_registry.widths import LatentSpec, TokenSpec


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
    told, seen = tally.details(), int(tally.counts.sum())
    assert (told["usage"]["most"], told["perplexity"]["most"]) == (100 * min(seen, 8) / 8, min(seen, 8))


def test_codebook_averages_over_several_codebooks(metric: Any, pictures: torch.Tensor) -> None:
    tally = metric("codebook", spec_=spec(4, 2))
    codes = torch.tensor([[[0, 0], [0, 1], [0, 2], [0, 3]]])
    tally.update(batch(pictures[:1], pictures[:1], tokens(codes)))
    assert tally.compute() == pytest.approx({"usage": 62.5, "perplexity": 2.0})
    assert tally.protocol() == {"perplexity": "of the mean entropy of codebooks"}
    assert metric("codebook", spec_=spec(4)).protocol() == {}


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


def naive_ssim(a: np.ndarray, b: np.ndarray, sigma: float, border: int = 0) -> float:
    """SSIM of one image of 8-bit steps, by scipy's correlation in float64; a border may be left out."""
    radius = int(3.5 * sigma + 0.5)
    line = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    window = np.outer(line, line) / line.sum() ** 2

    def blur(x: np.ndarray) -> np.ndarray:
        found = scipy.ndimage.correlate(x, window, mode="mirror")
        return found[border : found.shape[0] - border, border : found.shape[1] - border]

    found = []
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        found.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize("borders", ["crop", "mirror"])
@pytest.mark.parametrize("sigma", [1.0, 1.5])
def test_ssim_is_the_one_of_scipy_in_float64(metric: Any, pictures: torch.Tensor, sigma: float, borders: str) -> None:
    smooth = torch.nn.functional.avg_pool2d(pictures.float(), 3, 1, 1)
    fake = (0.7 * smooth + 0.3 * pictures.float() + 10).clamp(0, 255).byte()
    left_out = {"crop": int(3.5 * sigma + 0.5), "mirror": 0}
    expected = {
        word: [naive_ssim(a, b, sigma, border) for a, b in zip(pictures.numpy(), fake.numpy(), strict=True)]
        for word, border in left_out.items()
    }
    tally = metric({"type": "ssim", "sigma": sigma, "borders": borders})
    found = feed(tally, pictures, fake, step=4)["ssim"]
    assert found == pytest.approx(expected[borders], abs=1e-9)
    assert tally.compute()["ssim"] == pytest.approx(np.mean(expected[borders]), abs=1e-9)
    assert 0.05 < np.mean(expected[borders]) < 0.99
    assert abs(np.mean(expected["crop"]) - np.mean(expected["mirror"])) > 0.01
    assert tally.protocol()["borders"] == {"crop": "left out", "mirror": "reflected and counted"}[borders]


@pytest.mark.slow
def test_mirrored_ssim_is_torchmetrics(metric: Any) -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure as theirs

    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 40), np.uint8))
    fake = (real.float() + torch.from_numpy(rng.normal(0, 20, real.shape))).clamp(0, 255).byte()
    found = feed(metric({"type": "ssim", "borders": "mirror"}), real, fake)["ssim"]
    wanted = theirs(fake.double(), real.double(), sigma=1.5, reduction="none", data_range=255.0)
    assert found == pytest.approx(wanted.tolist(), abs=1e-9)


def test_psnr_is_scikit_images_definition(metric: Any, pictures: torch.Tensor) -> None:
    # with a data range of 255, in float64, image by image
    rng = np.random.default_rng(3)
    fake = torch.from_numpy((pictures.numpy() * rng.uniform(0.5, 1, (6, 1, 1, 1))).astype(np.uint8))
    found = feed(metric("psnr"), pictures, fake)["psnr"]
    a, b = pictures.numpy().astype(np.float64), fake.numpy().astype(np.float64)
    assert found == pytest.approx([-10 * np.log10(np.mean((x - y) ** 2 / 255**2)) for x, y in zip(a, b, strict=True)])


def test_usage_and_perplexity_are_numpys_and_scipys(metric: Any, pictures: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    codes = torch.from_numpy(np.minimum(rng.geometric(0.2, (200, 4, 2)), 31))
    tally = metric("codebook", spec_=spec(32, 2))
    for some in codes.split(37):
        tally.update(
            batch(pictures[:1].expand(len(some), -1, -1, -1), pictures[:1].expand(len(some), -1, -1, -1), tokens(some))
        )
    books = [codes[..., i].flatten().numpy() for i in range(2)]
    shares = [np.unique(book, return_counts=True)[1] / book.size for book in books]
    assert tally.compute() == pytest.approx(
        {
            "usage": 100 * np.mean([len(share) / 32 for share in shares]),
            "perplexity": 2 ** np.mean([scipy.stats.entropy(share, base=2) for share in shares]),
        }
    )
    ranked = tally.details()["usage"]["ranked"]
    for book, runs in zip(books, ranked, strict=True):
        expected = sorted(np.bincount(book, minlength=32).tolist(), reverse=True)
        assert [times for times, codes_ in runs for _ in range(codes_)] == expected


def test_bits_of_an_image_name_any_of_its_token_sequences(metric: Any, pictures: torch.Tensor) -> None:
    # so many sequences of that length there are: 2 to the bits
    tally = metric("bits", spec_=spec(1000, 3))
    tally.update(batch(pictures[:1], pictures[:1], tokens(torch.zeros(1, 4, 3, dtype=torch.long))))
    assert 2 ** tally.compute()["bits"] == pytest.approx(float(1000 ** (3 * 4)), rel=1e-9)


def test_tallies_of_one_metric_do_not_mix(metric: Any, pictures: torch.Tensor) -> None:
    first = metric("psnr")
    second = first.metric.start(spec())
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


def naive_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM of one image, channel by channel, by scipy's correlation in float64."""
    line = np.exp(-(np.arange(-5, 6.0) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blur(x: np.ndarray) -> np.ndarray:
        return scipy.ndimage.correlate(x, window, mode="constant")[5:-5, 5:-5]

    found = []
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        value = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mx, my = blur(x), blur(y)
            structure = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
            luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1) if scale == 4 else 1
            value *= max(0.0, float((luminance * structure).mean())) ** weight
            x, y = (e[: e.shape[0] // 2 * 2, : e.shape[1] // 2 * 2] for e in (x, y))
            x, y = ((e[::2, ::2] + e[1::2, ::2] + e[::2, 1::2] + e[1::2, 1::2]) / 4 for e in (x, y))
        found.append(value)
    return float(np.mean(found))


def scenery(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures, and noisy ones of them."""
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(2, 3, *size)), (0, 0, 6, 6))
    real = (128 + 50 * smooth / smooth.std()).clip(0, 255)
    return tuple(
        torch.from_numpy(e.clip(0, 255).astype(np.uint8)) for e in (real, real + rng.normal(0, 25, real.shape))
    )  # type: ignore[return-value]


def test_ms_ssim_is_the_one_of_scipy_in_float64(metric: Any) -> None:
    real, fake = scenery((176, 183))
    tally = metric("ms-ssim", Images(size=(176, 183)))
    expected = list(map(naive_ms_ssim, real.numpy(), fake.numpy()))
    assert feed(tally, real, fake)["ms_ssim"] == pytest.approx(expected, abs=1e-9)
    assert 0.3 < tally.compute()["ms_ssim"] < 0.99
    assert feed(metric("ms-ssim", Images(size=(176, 183))), real, real)["ms_ssim"] == pytest.approx([1, 1], abs=1e-12)
    assert "five scales of a window of 11 need 176" in metric("ms-ssim", Images(size=(200, 175))).unavailable()


@pytest.mark.slow
def test_ms_ssim_is_torchmetrics_where_their_borders_are_left_out(metric: Any) -> None:
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as theirs

    real, fake = scenery((192, 192))
    found = feed(metric("ms-ssim", Images(size=(192, 192))), real, fake)["ms_ssim"]
    wanted = theirs(fake.double(), real.double(), data_range=255.0, reduction="none", normalize="relu")
    # theirs reflects at borders and takes the product of means over channels
    assert found == pytest.approx(wanted.tolist(), abs=0.01)
