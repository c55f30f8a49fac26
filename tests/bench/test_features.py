"""Metrics on Inception features: each against an independent float64 computation, and what they share and keep."""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.special
import torch
from safetensors import safe_open

from flexframe.bench.metric import Scratch
from flexframe.bench.protocol import settings
from flexframe.bench.statistics import write_statistics
from flexframe.testing.golden import shared
from flexframe_registry import LatentSpec, Spec, TokenSpec
from flexframe_standard.metrics import feature_files, precision_recall
from flexframe_standard.metrics import inception as features
from flexframe_standard.metrics.feature_files import Cache, Rows, digests
from flexframe_standard.metrics.fid import frechet_distance, part_distance
from flexframe_standard.metrics.inception import Inception, Moments
from flexframe_standard.metrics.kid import polynomial_mmd
from flexframe_standard.metrics.precision_recall import radii, within

pytestmark = pytest.mark.slow

SPEC = Spec(LatentSpec(3, 16, 16), 4, TokenSpec(4, 2, 1, 8))
SHARED = shared(Path(__file__)) / "data"


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Two clouds of random vectors, as single-precision features are."""
    rng = np.random.default_rng(0)
    a, b = (
        rng.normal(0.3, 0.1, (90, 12)),
        rng.normal(0.32, 0.13, (90, 12)) @ (np.eye(12) + rng.normal(size=(12, 12)) / 9),
    )
    return a.astype(np.float32), b.astype(np.float32)


# --- the formulas, on given features -------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7, 50])
def test_streamed_frechet_distance_is_the_one_of_all_features(pair: Any, step: int) -> None:
    a, b = (x.astype(np.float64) for x in pair)
    moments = Moments(12), Moments(12)
    for moment, rows in zip(moments, (a, b), strict=True):
        for i in range(0, len(rows), step):
            moment.add(torch.from_numpy(rows[i : i + step]))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    expected = mean + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root)
    assert frechet_distance(*moments) == pytest.approx(expected, rel=1e-8)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased MMD, pair by pair, summed exactly."""

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        values = [
            (math.fsum(float(p) * float(q) for p, q in zip(u, v, strict=True)) / len(u) + 1) ** 3
            for i, u in enumerate(a)
            for j, v in enumerate(b)
            if not (same and i == j)
        ]
        return math.fsum(values) / len(values)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_kernel_distance_is_the_one_summed_pair_by_pair(pair: Any) -> None:
    a, b = pair[0][:25], pair[1][:25]
    assert polynomial_mmd(a, b) == pytest.approx(kernel_distance(a, b), rel=1e-9)


def test_kernel_distance_is_torch_fidelitys(pair: Any) -> None:
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    a, b = (x.astype(np.float64) for x in pair)
    kernels = [kernel_poly(x, y, **settings) for x, y in ((a, a), (a, b), (b, b))]
    assert polynomial_mmd(a, b) == pytest.approx(mmd2(*kernels), rel=1e-9)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_are_those_of_trees_of_neighbours(pair: Any, k: int) -> None:
    real, fake = (x.astype(np.float64) for x in pair)

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        radius = scipy.spatial.cKDTree(centres).query(centres, k + 1)[0][:, -1]
        return float(np.mean([(np.linalg.norm(centres - p, axis=1) <= radius).any() for p in points]))

    assert within(fake, real, radii(real, k)) == share(fake, real)
    assert within(real, fake, radii(fake, k)) == share(real, fake)
    assert 0 < share(fake, real) < 1


def test_precision_and_recall_are_torch_fidelitys(pair: Any) -> None:
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = pair
    expected = calculate_precision_recall_full(torch.from_numpy(fake).double(), torch.from_numpy(real).double(), 3)
    assert (within(fake, real, radii(real, 3)), within(real, fake, radii(fake, 3))) == pytest.approx(expected, abs=1e-6)


# --- whole metrics, over a network of random features ----------------------------------------------------------------


def reconstructed(source: Any, strength: float = 0.15) -> torch.Tensor:
    noise = torch.randn(source.images.shape, generator=torch.Generator().manual_seed(1))
    return (source.images.float() + 255 * strength * noise).clamp(0, 255).byte()


def both(weights: Any, source: Any, fake: torch.Tensor, layer: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    net = weights.net(Path(weights(seed)).read_bytes(), [layer])
    return net(source.images)[0].numpy(), net(fake)[0].numpy()


@pytest.mark.parametrize("step", [5, 40])
def test_frechet_of_images(over: Any, feed: Any, photographs: Any, inception: Any, step: int) -> None:
    source = photographs(40)
    fake = reconstructed(source)
    metric = over({"type": "frechet", "layer": "64", "weights": inception(), "few": True}, source)
    a, b = (x.astype(np.float64) for x in both(inception, source, fake, "64"))
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False) + 1e-14 * np.eye(64)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    tally = feed(metric, fake, step)
    assert tally.compute()["fid@64"] == pytest.approx(expected, rel=1e-4)
    assert tally.protocol()["layer"] == "64"
    assert "not comparable" in tally.protocol()["pipeline_check"]


def test_kid_of_images(over: Any, feed: Any, photographs: Any, inception: Any) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    source = photographs(40)
    fake = reconstructed(source)
    config = {"type": "kid", "weights": inception(), "subsets": 5, "subset_size": 12, "seed": 9}
    found = feed(over(config, source), fake).compute()
    a, b = both(inception, source, fake, "2048")
    draws, values = np.random.RandomState(9), []
    for _ in range(5):
        some, others = draws.choice(40, 12, replace=False), draws.choice(40, 12, replace=False)
        x, y = b[some].astype(np.float64), a[others].astype(np.float64)
        grams = [(np.einsum("id,jd->ij", p, q) / 2048 + 1) ** 3 for p, q in ((x, x), (y, y), (x, y))]
        off = ~np.eye(12, dtype=bool)
        values.append(grams[0][off].mean() + grams[1][off].mean() - 2 * grams[2].mean())
    assert found["kid"] == pytest.approx(np.mean(values), rel=1e-6)
    assert found["kid-std"] == pytest.approx(np.std(values), rel=1e-6)
    settings = {"kid_subsets": 5, "kid_subset_size": 12, "rng_seed": 9, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(b).double(), torch.from_numpy(a).double(), **settings)
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_precision_recall_of_images(over: Any, feed: Any, photographs: Any, inception: Any) -> None:
    source = photographs(40)
    fake = torch.cat([reconstructed(source, 0.4)[:25], source.images[25:].flip(3)])
    metric = over({"type": "precision-recall", "layer": "768", "weights": inception(), "few": True}, source)
    a, b = (torch.from_numpy(x).double() for x in both(inception, source, fake, "768"))

    def share(points: torch.Tensor, centres: torch.Tensor) -> float:
        radius = torch.linalg.vector_norm(centres[:, None] - centres, dim=2).sort(1).values[:, 3]
        return float((torch.linalg.vector_norm(points[:, None] - centres, dim=2) <= radius).any(1).double().mean())

    found = feed(metric, fake).compute()
    assert found == pytest.approx({"precision@768": share(b, a), "recall@768": share(a, b)}, abs=1e-9)
    assert 0 < found["precision@768"] < 1


@pytest.mark.parametrize("splits", [1, 3, 7])
def test_inception_score_of_images(over: Any, feed: Any, photographs: Any, inception: Any, splits: int) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    source = photographs(40)
    config = {"type": "inception-score", "weights": inception(), "splits": splits, "few": True}
    found = feed(over(config, source), source.images).compute()
    logits = both(inception, source, source.images, features.LOGITS)[0].astype(np.float64)
    share = np.exp(logits - scipy.special.logsumexp(logits, axis=1, keepdims=True))[
        np.random.RandomState(2020).permutation(40)
    ]
    scores = []
    for i in range(splits):
        some = share[i * 40 // splits : (i + 1) * 40 // splits]
        scores.append(np.exp(np.mean([scipy.special.rel_entr(p, some.mean(0)).sum() for p in some])))
    assert found["is"] == pytest.approx(np.mean(scores), rel=1e-6)
    assert found["is-std"] == pytest.approx(np.std(scores), rel=1e-5, abs=1e-12)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits)
    assert found["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


# --- what is shared and kept -----------------------------------------------------------------------------------------


def test_a_batch_goes_through_the_network_once_for_all_metrics(
    over: Any, photographs: Any, inception: Any, feed: Any
) -> None:
    from flexframe.bench.metric import Reconstructions
    from flexframe.tokens import Tokens

    source, weights = photographs(12), inception()
    kid = over({"type": "kid", "weights": weights, "subset_size": 6, "subsets": 2}, source)
    recall = over({"type": "precision-recall", "weights": weights, "few": True}, source)
    score = over({"type": "inception-score", "weights": weights, "few": True, "splits": 1}, source)
    tallies = [metric.start(SPEC) for metric in (kid, recall, score, kid, recall)]
    fakes = [reconstructed(source), reconstructed(source, 0.3)]
    tokens = Tokens(torch.zeros(12, 4, 2), torch.ones(12, 4).bool(), torch.zeros(12, 4, 1).long())
    for tally, fake in zip(tallies, [fakes[0]] * 3 + [fakes[1]] * 2, strict=True):
        assert tally.unavailable() is None
        tally.update(Reconstructions(source.images, fake, fake / 255, [None] * 12, tokens))
    assert inception.net.calls == 3 * 12  # the originals, and each set of reconstructions
    assert tallies[0].compute() != tallies[3].compute()


def test_originals_features_are_kept_for_later_runs(
    over: Any, feed: Any, photographs: Any, inception: Any, own_home: Path
) -> None:
    config = {"type": "kid", "layer": "64", "weights": inception(), "subset_size": 6, "subsets": 2}
    first = photographs(20)
    fake = reconstructed(first)
    expected = feed(over(config, first), fake).compute()
    assert inception.net.calls == 40
    (kept,) = (own_home / "features").iterdir()
    with safe_open(kept, "pt") as file:
        assert file.get_slice("features").get_shape() == [20, 64]
    again = photographs(20)  # another run: nothing is in memory
    assert feed(over(config, again), fake).compute() == expected
    assert inception.net.calls == 60
    other = {**config, "weights": inception(1)}
    feed(over(other, photographs(20)), fake).compute()
    assert inception.net.calls == 100
    assert len(list((own_home / "features").iterdir())) == 2
    more = photographs(20, seed=3)
    more.images = torch.cat([first.images[5:15], more.images])
    feed(over(config, more), reconstructed(more)).compute()
    assert inception.net.calls == 100 + 20 + 30  # ten of the originals are known


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_file_is_told_and_computed_anew(
    over: Any, feed: Any, photographs: Any, inception: Any, own_home: Path, caplog: Any, damage: str
) -> None:
    config = {"type": "kid", "layer": "64", "weights": inception(), "subset_size": 6, "subsets": 2}
    fake = reconstructed(photographs(20))
    expected = feed(over(config, photographs(20)), fake).compute()
    (kept,) = (own_home / "features").iterdir()
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    kept.write_bytes({"cut": whole[:-100], "flipped": bytes(flipped), "text": b"hello"}[damage])
    with caplog.at_level(logging.WARNING):
        assert feed(over(config, photographs(20)), fake).compute() == expected
    assert "is damaged" in caplog.text
    assert inception.net.calls == 80
    caplog.clear()
    assert feed(over(config, photographs(20)), fake).compute() == expected
    assert inception.net.calls == 100  # the file was written anew: only reconstructions go through the network
    assert caplog.text == ""


def test_interrupted_metrics_go_on_in_another_process(
    over: Any, feed: Any, photographs: Any, inception: Any, tmp_path: Path
) -> None:
    weights = inception()
    configs: list[dict[str, Any]] = [
        {"type": "frechet", "layer": "64", "few": True},
        {"type": "kid", "layer": "64", "subset_size": 6, "subsets": 3},
        {"type": "precision-recall", "few": True},
        {"type": "inception-score", "few": True, "splits": 3},
    ]
    fake = reconstructed(photographs(30))
    for config in configs:
        config["weights"] = weights
        expected = feed(over(config, photographs(30)), fake, 6).compute()
        scratch = Scratch(tmp_path / config["type"] / "own", tmp_path / config["type"] / "common")
        before = feed(over(config, photographs(30)), fake, 6, stop=12, scratch=scratch)
        torch.save(dict(before.state()), tmp_path / "state.pt")
        feed(before.metric, fake, 6, 12, 24, tally=before)  # measured, and not saved: measured again
        later = over(config, photographs(30))
        tally = later.start(SPEC, scratch)
        tally.restore(torch.load(tmp_path / "state.pt", weights_only=True))
        assert feed(later, fake, 6, 12, tally=tally).compute() == expected


def test_all_models_see_the_same_originals(over: Any, photographs: Any, inception: Any, feed: Any) -> None:
    source = photographs(12)
    metric = over({"type": "frechet", "layer": "64", "weights": inception(), "few": True}, source)
    feed(metric, source.images)
    source.images = source.images.flip(0)
    with pytest.raises(ValueError, match="all models see the same images"):
        feed(metric, source.images)


def test_rows_are_addressed_by_position(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "deep" / "rows.f32", 3)
    all_ = torch.rand(10, 3)
    for at in (0, 6, 3, 6):
        rows.write(at, all_[at : at + 4])
    assert np.array_equal(rows.read(10), all_.numpy())
    assert torch.equal(torch.cat(list(rows.blocks(10))), all_.double())
    assert np.array_equal(rows.read(7, 5), all_[5:7].numpy())
    with pytest.raises(ValueError, match="width is 3"):
        rows.write(0, all_[:, :2])
    content = bytearray(rows.path.read_bytes())
    content[4 * 16 + 2] ^= 1
    rows.path.write_bytes(content)
    assert np.array_equal(rows.read(10, 5), all_[5:].numpy())
    with pytest.raises(
        ValueError, match=r"rows\.f32: row 4 was changed after .*; delete this file's folder, and measure"
    ):
        rows.read(5)


def test_images_of_other_shapes_have_other_hashes() -> None:
    images = torch.zeros(2, 3, 4, 6, dtype=torch.uint8)
    assert torch.equal(*digests(images))
    assert not torch.equal(digests(images)[0], digests(images.reshape(2, 3, 6, 4))[0])


def test_a_set_holds_each_image_once(own_home: Path) -> None:
    cache = Cache({"extractor": "toy"})
    hashes, rows = np.array([[1] * 16, [2] * 16, [1] * 16], dtype=np.uint8), np.eye(3, dtype=np.float32)
    assert len(cache.publish(hashes, rows)) == 1
    assert Cache({"extractor": "toy"}).publish(hashes, rows) == []
    assert Cache({"extractor": "toy"}).find(bytes([2] * 16)).tolist() == [0, 1, 0]
    assert Cache({"extractor": "other"}).find(bytes([2] * 16)) is None


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "count", "words"),
    [
        ({"type": "frechet"}, 2048, "layer 2048 needs more than 2,048 images, and there are 2,048"),
        ({"type": "frechet", "layer": "64"}, 64, "layer 64 needs more than 64 images"),
        ({"type": "kid"}, 999, "subsets of 1,000 images cannot be drawn from 999; .* lower the metric's `subset_size`"),
        ({"type": "precision-recall"}, 999, "needs 1,000 images, and there are 999.*`few: true`"),
        ({"type": "precision-recall", "few": True, "k": 5}, 6, "too few neighbours for k = 5"),
        ({"type": "inception-score"}, 10_079, "fewer than the 1,008 classes.*`count` to 10,080"),
        ({"type": "inception-score", "few": True}, 9, "9 images do not fill 10 splits"),
    ],
)
def test_too_few_images_are_refused_without_a_download(
    over: Any, photographs: Any, inception: Any, monkeypatch: pytest.MonkeyPatch, config: Any, count: int, words: str
) -> None:
    class Fetched(BaseException):
        pass

    def fetch(*args: Any) -> None:
        raise Fetched

    monkeypatch.setattr(Inception, "_fetch", fetch)
    source = photographs(1)
    source.images = source.images.expand(count, -1, -1, -1)
    assert over(config, source).start(SPEC).unavailable() is not None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(over(config, source).start(SPEC).unavailable())
    source = photographs(1)
    source.images = source.images.expand(count + 1, -1, -1, -1)
    with pytest.raises(Fetched):
        over(config, source).start(SPEC).unavailable()


def test_frechet_without_weights_says_how_to_get_them(
    over: Any, photographs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    tries = []

    def offline(url: str, timeout: float) -> Any:
        tries.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    few = over("frechet", photographs(359)).start(SPEC).unavailable()
    assert "2,048 images, and there are 359" in few
    assert "not here either" in few
    assert features.URL in few
    assert tries == []
    source = photographs(1)
    source.images = source.images.expand(5000, -1, -1, -1)
    metric = over("frechet", source)
    for _ in range(2):
        why = metric.start(SPEC).unavailable()
        assert "no route to host" in why
        assert "`weights`" in why
    assert tries == [features.URL]


def test_a_file_that_would_run_code_is_refused(over: Any, photographs: Any, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": Evil()}))
    why = over({"type": "frechet", "layer": "64", "weights": str(path)}, photographs(100)).start(SPEC).unavailable()
    assert "its weights cannot be used" in why
    assert not (tmp_path / "was-run").exists()


def test_a_missing_file_is_named(over: Any, photographs: Any, tmp_path: Path) -> None:
    config = {"type": "frechet", "layer": "64", "weights": str(tmp_path / "no.pth")}
    assert "no.pth" in over(config, photographs(100)).start(SPEC).unavailable()


# --- the real network ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_frechet_and_kid_with_real_weights(over: Any, feed: Any, photographs: Any, real_inception: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    source = photographs(6, (64, 64))
    fake = (source.images.float() * 0.8).byte()
    config = {"layer": "64", "weights": str(real_inception)}
    frechet = over({"type": "frechet", "few": True, **config}, source)
    kid = over({"type": "kid", "subsets": 1, "subset_size": 6, **config}, source)
    assert kid.features is frechet.features
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["64"], feature_extractor_weights_path=str(real_inception))
    a, b = (net(images)[0].double().numpy() for images in (source.images, fake))
    tally = feed(frechet, fake, step=4)
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T) + 1e-14 * np.eye(64)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert tally.compute()["fid@64"] == pytest.approx(expected, rel=1e-3)
    assert feed(kid, fake, step=6).compute()["kid@64"] == pytest.approx(kernel_distance(b, a), rel=1e-5, abs=1e-9)
    assert tally.protocol()["weights_sha256"] == hashlib.sha256(real_inception.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_quicker_network_is_torch_fidelitys_to_rounding(photographs: Any, real_inception: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    layers, images = ["64", "192", "768"], photographs(2, (64, 48)).images
    theirs = FeatureExtractorInceptionV3(
        "inception-v3-compat", layers, feature_extractor_weights_path=str(real_inception)
    )
    net = features.build(real_inception.read_bytes(), layers)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.Mixed_5b.modules())
    for found, wanted in zip(net(images), theirs(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


def test_norms_are_folded_into_convolutions() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x)).relu()

    torch.manual_seed(0)
    net = torch.nn.Sequential(Block(), torch.nn.BatchNorm2d(4)).double()
    for norm in (net[0].bn, net[1]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    wanted = net.eval()(images)
    torch.testing.assert_close(features.quicker(net)(images), wanted, rtol=0, atol=1e-12)
    assert isinstance(net[0].bn, torch.nn.Identity)
    assert isinstance(net[1], torch.nn.BatchNorm2d)  # which follows no convolution


def test_no_number_comes_from_weights_that_are_not_whole(
    over: Any, photographs: Any, real_inception: Path, own_home: Path
) -> None:
    from flexframe.bench.metric import Reconstructions
    from flexframe.tokens import Tokens

    source = photographs(2)
    tokens = Tokens(torch.zeros(2, 4, 2), torch.ones(2, 4).bool(), torch.zeros(2, 4, 1).long())
    for config in ({"type": "frechet"}, {"type": "inception-score", "splits": 1}):
        tally = over({**config, "few": True, "weights": str(real_inception)}, source).start(SPEC)
        assert tally.unavailable() is None
        tally.update(Reconstructions(source.images, source.images, source.images / 255, [None] * 2, tokens))
        assert "not finite" in tally.unavailable()
    assert not (own_home / "features").exists()


def test_parts_of_a_frechet_distance_are_disjoint_and_each_its_own_distance(
    over: Any, feed: Any, photographs: Any, inception: Any
) -> None:
    source = photographs(700)
    fake = reconstructed(source)
    tally = feed(over({"type": "frechet", "layer": "64", "weights": inception()}, source), fake, 100)
    tally.compute()
    found = tally.details()["fid@64"]["subsets"]
    order = np.random.RandomState(2020).permutation(700)
    a, b = (x.astype(np.float64) for x in both(inception, source, fake, "64"))
    expected = []
    for part in np.array_split(order, 10):  # 70 images and 64 features: the covariances have full rank
        one, other = np.cov(a[part], rowvar=False), np.cov(b[part], rowvar=False)
        root = scipy.linalg.sqrtm(one @ other).real
        expected.append(((a[part].mean(0) - b[part].mean(0)) ** 2).sum() + np.trace(one + other - 2 * root))
    assert found["size"] == 70
    assert found["values"] == pytest.approx(expected, rel=1e-6)
    few = feed(
        over({"type": "frechet", "layer": "64", "weights": inception(), "few": True}, photographs(29)), fake[:29]
    )
    few.compute()
    assert few.details() == {}


@pytest.mark.parametrize(("count", "width"), [(20, 50), (60, 50)])
def test_distances_of_parts_do_not_need_a_covariance_of_full_rank(count: int, width: int) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(count, width)), rng.normal(0.2, 1.5, size=(count, width))
    values = scipy.linalg.eigvals(np.cov(x.T) @ np.cov(y.T))
    root = np.sqrt(np.clip(values.real, 0, None)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * root
    assert part_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert part_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_subsets_of_kid_and_inception_score(over: Any, feed: Any, photographs: Any, inception: Any) -> None:
    source = photographs(60)
    fake = reconstructed(source)
    kid = feed(
        over({"type": "kid", "layer": "64", "weights": inception(), "subset_size": 30, "subsets": 2}, source), fake
    )
    kid.compute()
    a, b = both(inception, source, fake, "64")
    some = np.array_split(np.random.RandomState(2020).permutation(60), 10)
    expected = [kernel_distance(b[part], a[part]) for part in some]
    assert kid.details()["kid@64"]["subsets"]["values"] == pytest.approx(expected, rel=1e-6)
    score = feed(over({"type": "inception-score", "weights": inception(), "few": True, "splits": 4}, source), fake)
    values = score.details()["is"]["subsets"]
    assert values["size"] == 15
    assert np.mean(values["values"]) == pytest.approx(score.compute()["is"])


def test_frechet_against_other_images(over: Any, feed: Any, photographs: Any, inception: Any, tmp_path: Path) -> None:
    from PIL import Image

    source = photographs(40)
    fake, others = reconstructed(source), photographs(30, seed=5)
    for i, image in enumerate(others.images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02d}.png")
    config = {"type": "frechet", "layer": "64", "weights": inception(), "few": True}
    config["reference"] = {"type": "folder", "path": str(tmp_path)}
    tally = feed(over(config, source), fake)
    assert inception.net.calls == 40  # the suite's own images are not looked at
    found = tally.compute()["fid@64"]
    a = both(inception, others, fake, "64")[0].astype(np.float64)
    b = both(inception, source, fake, "64")[1].astype(np.float64)
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False) + 1e-14 * np.eye(64)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert found == pytest.approx(expected, rel=1e-4)
    told = tally.protocol()["reference"]
    assert told["count"] == 30
    assert told["data"]["type"] == "folder"
    assert str(tmp_path) not in str(told)
    assert tally.details() == {}
    few = over({**config, "few": False}, photographs(65)).start(SPEC).unavailable()
    assert "there are 30; raise the reference's `count`" in few
    np.savez(tmp_path / "reference.npz", mu=a.mean(0), sigma=np.cov(a.T), count=30)
    config["reference"] = str(tmp_path / "reference.npz")
    published = feed(over(config, source), fake)
    assert published.compute()["fid@64"] == pytest.approx(found, rel=1e-6)
    told = published.protocol()["reference"]["statistics"]
    assert told["sha256"] == hashlib.sha256((tmp_path / "reference.npz").read_bytes()).hexdigest()
    assert told["count"] == 30


def test_blocks_move_no_number(
    pair: Any, over: Any, feed: Any, photographs: Any, inception: Any, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    real, fake = pair
    expected = radii(real, 3), within(fake, real, radii(real, 3))
    config = {"type": "kid", "layer": "64", "weights": inception(), "subset_size": 6, "subsets": 2}
    rebuilt = reconstructed(photographs(20))
    number = feed(over(config, photographs(20)), rebuilt).compute()
    monkeypatch.setattr(precision_recall, "TILE", 7)
    for module in (precision_recall, feature_files):
        monkeypatch.setattr(module, "BLOCK", 8)
    assert torch.allclose(radii(real, 3), expected[0], rtol=1e-12)
    assert within(fake, real, radii(real, 3)) == expected[1]
    for path in (own_home / "features").iterdir():
        path.unlink()
    for calls in (40, 20):  # the originals' features come from three files the second time
        before = inception.net.calls
        assert feed(over(config, photographs(20)), rebuilt).compute() == number
        assert inception.net.calls - before == calls
        assert len(list((own_home / "features").iterdir())) == 3


@pytest.mark.slow
def test_sfid_is_of_the_first_channels_of_the_branch_of_one_by_one(real_inception: Path) -> None:
    """By numpy in float64, of what goes into the branch of the real network."""
    net: Any = features.build(real_inception.read_bytes(), ["spatial", "64"])
    into: list[torch.Tensor] = []
    net.net.Mixed_6d.register_forward_hook(lambda module, given, made: into.append(given[0]))
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 48), dtype=np.uint8))
    with torch.no_grad():
        found, first = net(images)
        plain = features.build(real_inception.read_bytes(), ["64"])(images)[0]
    conv = net.net.Mixed_6d.branch1x1.conv  # its norm is folded into it
    kernel, bias = (each.detach().double().numpy()[:7] for each in (conv.weight[:, :, 0, 0], conv.bias))
    made = (np.einsum("bchw,dc->bhwd", into[0].double().numpy(), kernel) + bias).clip(min=0).reshape(2, -1)
    assert found.shape == (2, 7 * 17 * 17)
    assert np.allclose(found.numpy(), made, rtol=1e-5, atol=1e-5 * made.max())
    assert made.max() > 0.1
    torch.testing.assert_close(first, plain)


def test_sfid_and_fid_of_one_file_as_adm_keeps_them(
    over: Any, feed: Any, photographs: Any, inception: Any, tmp_path: Path
) -> None:
    source, path = photographs(40), tmp_path / "adm.npz"
    fake = reconstructed(source)
    each: dict[str, dict[str, Any]] = {
        layer: {"type": "frechet", "layer": layer, "weights": inception(), "few": True} for layer in ("64", "spatial")
    }
    write_statistics([over(config, source) for config in each.values()], path, torch.device("cpu"))
    with np.load(path, allow_pickle=False) as held:
        assert {name: len(held[name]) for name in ("mu", "mu_s")} == {"mu": 64, "mu_s": 2023}
    a, b = (x.astype(np.float64) for x in both(inception, source, fake, "spatial"))
    metric = over({**each["spatial"], "reference": str(path)}, source)
    tally = metric.start(SPEC)
    assert tally.metric.measures()[0].label == "sFID"
    assert metric.other.held.mu == pytest.approx(a.mean(0), abs=1e-12)
    assert metric.other.held.sigma == pytest.approx(np.cov(a, rowvar=False), abs=1e-12)
    assert part_distance(a, b) > 0
    assert "pipeline_check" not in tally.protocol()
    few = over({**each["spatial"], "few": False}, source)
    assert "needs more than 2,023 images" in few.refused


def test_precision_and_recall_against_a_reference_of_another_number(
    over: Any, feed: Any, photographs: Any, inception: Any, tmp_path: Path
) -> None:
    source, others = photographs(40), photographs(25, seed=5).images
    np.savez(tmp_path / "adm.npz", others.permute(0, 2, 3, 1).numpy())
    reference = {"type": "images", "path": str(tmp_path / "adm.npz")}
    metric = {"type": "precision-recall", "layer": "64", "weights": inception(), "few": True, "reference": reference}
    fake = reconstructed(source)
    tally = feed(over(metric, source), fake)
    net = inception.net(Path(inception()).read_bytes(), ["64"])
    real, made = (net(images)[0].double().numpy() for images in (others, fake))

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        radius = scipy.spatial.cKDTree(centres).query(centres, 4)[0][:, -1]
        return float(np.mean([(np.linalg.norm(centres - p, axis=1) <= radius).any() for p in points]))

    assert tally.compute() == pytest.approx({"precision@64": share(made, real), "recall@64": share(real, made)})
    assert tally.protocol()["reference"]["count"] == 25
    without = over({name: each for name, each in metric.items() if name != "reference"}, source)
    assert "reference" not in settings(without.config)
