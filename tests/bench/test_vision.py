"""DISTS, FD-DINOv2 and CMMD: each against an independent float64 computation and its peer's code. No published weights
are at hand here: the networks are the real ones with random weights of one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from flexframe.bench.metric import Scratch
from flexframe_registry import LatentSpec, Spec, TokenSpec
from flexframe_standard.metrics.dists import WIDTHS, Structure, channels_file
from flexframe_standard.metrics.vision import gaussian_mmd

pytestmark = pytest.mark.slow

SPEC = Spec(LatentSpec(3, 16, 16), 4, TokenSpec(4, 2, 1, 8))


# --- DISTS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vgg() -> dict[str, Tensor]:
    """Random weights of VGG-16, as torchvision stores them."""
    import torchvision

    with torch.device("meta"):
        model = torchvision.models.vgg16(weights=None).features
    generator, state = torch.Generator().manual_seed(0), {}
    for name, value in model.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        state[f"features.{name}"] = drawn * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else drawn / 10
    return state


def pair(size: tuple[int, int] = (40, 33)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(2, 3, *size, generator=generator)
    return a, (a + 0.1 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def by_hand(vgg: dict[str, Tensor], alpha: np.ndarray, beta: np.ndarray, a: Tensor, b: Tensor) -> float:
    """DISTS of one pair in float64: convolutions by sums over shifts, pooling by its window at every other pixel."""

    def stages(image: np.ndarray) -> list[np.ndarray]:
        x = (image - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[:, None, None]
        found = [image]
        for stage in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
            if stage[0]:
                squares = np.pad(x * x, ((0, 0), (1, 1), (1, 1)))
                window = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
                rows, columns = x.shape[1], x.shape[2]
                blurred = sum(
                    window[i, j] * squares[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)
                )
                x = np.sqrt(blurred[:, ::2, ::2] + 1e-12)
            for layer in stage:
                w, bias = (vgg[f"features.{layer}.{name}"].double().numpy() for name in ("weight", "bias"))
                p, (rows, columns) = np.pad(x, ((0, 0), (1, 1), (1, 1))), x.shape[1:]
                shifted = (p[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
                taps = (w[:, :, i, j] for i in range(3) for j in range(3))
                x = sum(np.tensordot(tap, s, 1) for tap, s in zip(taps, shifted, strict=True)) + bias[:, None, None]
                x = np.maximum(x, 0)
            found.append(x)
        return found

    alike, at = 0.0, 0
    for x, y in zip(stages(a.double().numpy()), stages(b.double().numpy()), strict=True):
        u, v = x.reshape(len(x), -1), y.reshape(len(y), -1)
        one = (2 * u.mean(1) * v.mean(1) + 1e-6) / (u.mean(1) ** 2 + v.mean(1) ** 2 + 1e-6)
        joint = (u * v).mean(1) - u.mean(1) * v.mean(1)
        two = (2 * joint + 1e-6) / (u.var(1) + v.var(1) + 1e-6)
        alike += float(alpha[at : at + len(x)] @ one + beta[at : at + len(x)] @ two)
        at += len(x)
    return 1 - alike / float(alpha.sum() + beta.sum())


def test_dists_is_the_one_computed_by_hand_and_torchmetrics(vgg: dict[str, Tensor], monkeypatch: Any) -> None:
    import torchvision
    from torchmetrics.functional.image import dists as theirs

    channels = torch.load(channels_file(None), weights_only=True)
    net = Structure()
    net.load(vgg, channels)
    net.double()
    a, b = pair()
    found = net(a.double(), b.double())
    alpha, beta = (channels[name].double().numpy().ravel() for name in ("alpha", "beta"))
    assert len(alpha) == sum(WIDTHS)
    assert float(found[0]) == pytest.approx(by_hand(vgg, alpha, beta, a[0], b[0]), rel=1e-6)
    assert net(a.double(), a.double()).abs().max() < 1e-12

    def random(weights: Any = None) -> Any:
        with torch.device("meta"):
            model = torchvision.models.vgg16(weights=None)
        state = {name: vgg[f"features.{name}"] for name in model.features.state_dict()}
        model.features.load_state_dict(state, assign=True)
        return model

    monkeypatch.setattr(theirs, "vgg16", random)
    peer = theirs.DISTSNetwork().double()(a.double(), b.double())
    assert found.tolist() == pytest.approx(peer.tolist(), rel=1e-6)


def test_the_metric_reads_its_weights_from_files(
    over: Any, feed: Any, photographs: Any, vgg: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(vgg, tmp_path / "vgg.pth")
    source = photographs(4)
    fake = (255 * torch.rand(source.images.shape)).byte()
    tally = feed(over({"type": "dists", "backbone": str(tmp_path / "vgg.pth")}, source), fake)
    net = Structure()
    net.load(vgg, torch.load(channels_file(None), weights_only=True))
    assert tally.compute()["dists"] == pytest.approx(float(net(source.images / 255, fake / 255).mean()), rel=1e-5)
    assert {"backbone_sha256", "weights_sha256"} <= set(tally.protocol())
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "bad.pth")
    told = over({"type": "dists", "backbone": str(tmp_path / "bad.pth")}, source).start(SPEC).unavailable()
    assert "the files lack 0.bias" in told


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of the two networks in transformers' form, small, with random weights of one seed."""
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    dino = transformers.Dinov2Model(transformers.Dinov2Config(image_size=28, patch_size=14, **small))
    clip = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(image_size=32, patch_size=16, projection_dim=12, **small)
    )
    made = {}
    for name, model in (("fd-dinov2", dino), ("cmmd", clip)):
        made[name] = str(tmp_path_factory.mktemp("vision") / name)
        model.save_pretrained(made[name])
    return made


def features(kind: str, folder: str, images: Tensor) -> np.ndarray:
    """Features by transformers itself, of images that Pillow and torch bring to size, in float64."""
    import transformers

    if kind == "fd-dinov2":
        model = transformers.Dinov2Model.from_pretrained(folder).eval()
        sized = [
            Image.fromarray(i.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC) for i in images
        ]
        given = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in sized]) / 255
        mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    else:
        model = transformers.CLIPVisionModelWithProjection.from_pretrained(folder).eval()
        given = torch.nn.functional.interpolate(images / 255, (32, 32), mode="bicubic", align_corners=False)
        mean, deviation = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
    given = (given - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    with torch.no_grad():
        out = model(pixel_values=given)
    rows = out.last_hidden_state[:, 0] if kind == "fd-dinov2" else out.image_embeds
    rows = rows.double().numpy()
    return rows if kind == "fd-dinov2" else rows / np.linalg.norm(rows, axis=1, keepdims=True)


def expected(kind: str, a: np.ndarray, b: np.ndarray) -> float:
    if kind == "fd-dinov2":
        root = np.sqrt(scipy.linalg.eigvals(np.cov(a.T) @ np.cov(b.T)).real.clip(0)).sum()
        return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * root)
    kernels = [np.exp(-(((x[:, None] - y) ** 2).sum(-1)) / 200).mean() for x, y in ((a, a), (b, b), (a, b))]
    return float(1000 * (kernels[0] + kernels[1] - 2 * kernels[2]))


@pytest.mark.parametrize("kind", ["fd-dinov2", "cmmd"])
def test_distances_in_transformers_features_are_those_computed_apart(
    kind: str, over: Any, feed: Any, photographs: Any, folders: dict[str, str]
) -> None:
    source = photographs(40)
    fake = photographs(40, seed=1).images
    config = {"type": kind, "model": folders[kind]}
    metric = over(config, source)
    tally = feed(metric, fake, 9)
    a, b = (rows.astype(np.float64) for rows in tally.pair())
    for own, images in ((a, source.images), (b, fake)):  # apart by a step of 8 bits in some pixels, for the resize
        assert np.abs(own - features(kind, folders[kind], images)).max() < 0.02 * own.std()
    assert tally.compute()[kind] == pytest.approx(expected(kind, a, b), rel=1e-6)
    assert tally.protocol()["weights_sha256"]
    assert len(tally.details()[kind]["subsets"]["values"]) == 10
    other = over({**config, "reference": {"type": "digits", "split": "val"}}, source)
    drawn = feed(other, fake, 9)
    digits = torch.stack([sample.image for sample in other.other.source.samples(range(len(other.other.source)))])
    c = features(kind, folders[kind], digits)
    assert drawn.compute()[kind] == pytest.approx(expected(kind, c, b), rel=1e-3)
    assert drawn.protocol()["reference"]["count"] == 359


def test_an_interrupted_distance_goes_on(
    over: Any, feed: Any, photographs: Any, folders: dict[str, str], tmp_path: Path
) -> None:
    fake, config = photographs(30, seed=1).images, {"type": "cmmd", "model": folders["cmmd"]}
    whole = feed(over(config, photographs(30)), fake, 6).compute()
    scratch = Scratch(tmp_path / "own", tmp_path / "common")
    before = feed(over(config, photographs(30)), fake, 6, stop=12, scratch=scratch)
    later = over(config, photographs(30))
    tally = later.start(SPEC, scratch)
    tally.restore(before.state())
    assert feed(later, fake, 6, 12, tally=tally).compute() == whole


def test_kernels_in_blocks_and_of_near_sets(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 8)).astype(np.float32)
    b = a + np.float32(1e-3) * rng.normal(size=a.shape).astype(np.float32)
    whole = gaussian_mmd(a, b)
    assert whole == pytest.approx(expected("cmmd", a.astype(np.float64), b.astype(np.float64)), rel=1e-6)
    monkeypatch.setattr("flexframe_standard.metrics.vision.BLOCK", 7)
    assert gaussian_mmd(a, b) == pytest.approx(whole, rel=1e-9)
    assert gaussian_mmd(a, a) == pytest.approx(0, abs=1e-9)


def test_what_is_missing_is_told_in_a_sentence(
    over: Any, photographs: Any, folders: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    few = over({"type": "fd-dinov2", "model": folders["fd-dinov2"]}, photographs(20)).start(SPEC)
    assert (
        few.unavailable() == "24 features need more than 24 images, and there are 20; raise `count`, or set `few: true`"
    )
    (tmp_path / "empty").mkdir()
    told = over({"type": "cmmd", "model": str(tmp_path / "empty")}, photographs(20)).start(SPEC).unavailable()
    assert "name a folder or a repository of the hub as `model` of the metric" in told
    monkeypatch.setattr("flexframe_standard.metrics.vision.find_spec", lambda name: None)
    told = over({"type": "cmmd"}, photographs(20)).start(SPEC).unavailable()
    assert told.startswith("the package transformers is not here; pip install transformers")
