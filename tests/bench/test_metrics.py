"""Each metric against a computation of its own."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flexframe.builtin import metrics_frechet
from flexframe.builtin.metrics_frechet import Extractor, Moments, frechet_distance
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


SHARED = Path(__file__).resolve().parents[3] / "shared/data"


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


# --- Fréchet distance ------------------------------------------------------------------------------------------------


def symmetric_frechet(a: np.ndarray, b: np.ndarray) -> float:
    """The distance through the root of a symmetric matrix, from the features at once."""
    mean_a, mean_b = a.mean(0), b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


@pytest.mark.parametrize("step", [1, 7, 50])
def test_streamed_frechet_distance_is_the_one_of_all_features(step: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, (50, 12)), rng.normal(3.2, 1.5, (40, 12)) @ rng.normal(size=(12, 12)) / 4
    moments = Moments(12), Moments(12)
    for moment, features in zip(moments, (a, b), strict=True):
        for i in range(0, len(features), step):
            moment.add(torch.from_numpy(features[i : i + step]))
    assert frechet_distance(*moments) == pytest.approx(symmetric_frechet(a, b), rel=1e-9)


def test_frechet_without_enough_images_says_so_and_fetches_nothing(
    metric: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(Extractor, "_fetch", lambda self: pytest.fail("a fetch was tried"))
    why = metric("frechet", Images(359)).unavailable()
    assert "2,048 images, and there are 359" in why
    assert "not here either" in why
    assert metrics_frechet.URL in why


def test_frechet_without_weights_says_how_to_get_them(
    metric: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tries = []

    def offline(url: str, timeout: float) -> Any:
        tries.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(metrics_frechet.urllib.request, "urlopen", offline)
    tally = metric("frechet", Images(5000))
    for _ in range(2):
        why = tally.start(spec()).unavailable()
        assert "no route to host" in why
        assert "`weights`" in why
    assert tries == [metrics_frechet.URL]


def test_frechet_refuses_a_file_that_would_run_code(metric: Any, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    why = metric({"type": "frechet", "layer": "64", "weights": str(path)}, Images(100)).unavailable()
    assert "cannot be had" in why
    assert not (tmp_path / "was-run").exists()


def test_frechet_names_a_missing_file(metric: Any, tmp_path: Path) -> None:
    why = metric({"type": "frechet", "layer": "64", "weights": str(tmp_path / "no.pth")}, Images(100)).unavailable()
    assert "no.pth" in why


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real weights up to the layer of width 768, NaN beyond."""
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("the Inception weights are not beside this checkout (shared/data/unpack.py)")
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    subprocess.run([sys.executable, SHARED / "unpack.py", "inception", "--to", path], check=True, capture_output=True)
    return path


def test_frechet_with_real_weights(metric: Any, inception: Path, pictures: torch.Tensor) -> None:
    config = {"type": "frechet", "layer": "64", "weights": str(inception), "few": True}
    tally = metric(config, Images(6))
    assert tally.unavailable() is None
    fake = (pictures.float() * 0.8).byte()
    feed(tally, pictures, fake, step=4)
    net = tally.extractor
    assert torch.equal(net.originals(pictures), net(pictures))
    expected = symmetric_frechet(net(pictures).double().numpy(), net(fake).double().numpy())
    assert tally.compute()["fid@64"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert tally.protocol()["weights_sha256"] == hashlib.sha256(inception.read_bytes()).hexdigest()
    assert "not comparable" in tally.protocol()["pipeline_check"]


def test_frechet_gives_no_number_from_weights_that_are_not_whole(
    metric: Any, inception: Path, pictures: torch.Tensor
) -> None:
    tally = metric({"type": "frechet", "weights": str(inception), "few": True}, Images(2))
    assert tally.unavailable() is None
    feed(tally, pictures[:2], pictures[:2], step=2)
    assert "not finite" in tally.unavailable()
