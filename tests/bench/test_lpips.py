"""LPIPS: against torchmetrics' network, against its documented value, and what is said where it cannot be had."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flexframe.nn.lpips import BACKBONES, Perceptual
from flexframe.testing.golden import shared
from flexframe_registry import LatentSpec, Spec, TokenSpec

pytestmark = pytest.mark.slow

SPEC = Spec(LatentSpec(3, 16, 16), 4, TokenSpec(4, 2, 1, 8))
SHARED = shared(Path(__file__)) / "data"
BACKBONE, LINEAR = SHARED / "squeezenet1_1.safetensors", SHARED / "lpips-v0.1-squeeze-lin.safetensors"
needs_weights = pytest.mark.skipif(not BACKBONE.is_file(), reason="SqueezeNet's weights are not beside this checkout")


def random_weights(net: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights as torchvision and the authors store them."""
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):  # a classifier of a hundred million weights is not used
        model = getattr(torchvision.models, BACKBONES[net][0])(weights=None)
    backbone = {}
    for name, value in model.features.state_dict().items():
        drawn = torch.empty(value.shape)
        kind = torch.nn.init.kaiming_normal_ if value.ndim > 1 else torch.nn.init.normal_
        backbone[f"features.{name}"] = kind(drawn)
    widths = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
    widths["squeeze"] = (64, 128, 256, 384, 384, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(widths[net])}
    return backbone, linear


@pytest.mark.parametrize("net", ["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)])
def test_it_is_torchmetrics_network(net: str) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    backbone, linear = random_weights(net)
    ours = Perceptual(net)
    ours.load(backbone, linear)
    with torch.device("meta"):
        theirs = _LPIPS(pretrained=False, net=net, pnet_rand=True)
    theirs.scaling_layer = type(theirs.scaling_layer)()
    names = {"alex": ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)), "vgg": ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))}
    names["squeeze"] = ((0, 2), (2, 5), (5, 8), (8, 10), (10, 11), (11, 12), (12, 13))
    state = linear | {f"lins.{name[3:]}": value for name, value in linear.items()}  # torchmetrics has them twice
    for name, value in backbone.items():
        number = int(name.split(".")[1])
        at = next(i for i, (low, high) in enumerate(names[net]) if low <= number < high)
        stage = f"net.slices.{at}" if net == "squeeze" else f"net.slice{at + 1}"
        state[f"{stage}.{name.removeprefix('features.')}"] = value
    theirs.load_state_dict({**theirs.state_dict(), **state}, assign=True)
    assert not any(value.is_meta for value in theirs.state_dict().values())
    torch.manual_seed(1)
    a, b = torch.rand(2, 3, 48, 40) * 2 - 1, torch.rand(2, 3, 48, 40) * 2 - 1
    torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=1e-5, atol=1e-7)


@needs_weights
def test_documented_value() -> None:
    net = Perceptual("squeeze")
    net.load(load_file(BACKBONE), load_file(LINEAR))
    torch.manual_seed(123)
    a, b = torch.rand(10, 3, 100, 100) * 2 - 1, torch.rand(10, 3, 100, 100) * 2 - 1
    assert float(net(a, b).mean()) == pytest.approx(0.1008, abs=5e-5)


@needs_weights
@pytest.mark.parametrize("step", [3, 20])
def test_metric_is_the_float64_mean_over_images(over: Any, feed: Any, photographs: Any, step: int) -> None:
    source = photographs(20, (32, 32))
    fake = (source.images.float() * 0.7).byte()
    config = {"type": "lpips", "net": "squeeze", "backbone": str(BACKBONE), "linear": str(LINEAR)}
    tally = feed(over(config, source), fake, step)
    net = Perceptual("squeeze")
    net.load(load_file(BACKBONE), load_file(LINEAR))
    net.double()
    values = net(source.images.double() / 127.5 - 1, fake.double() / 127.5 - 1).numpy()
    assert tally.compute()["lpips"] == pytest.approx(np.mean(values), rel=1e-5)
    told = tally.protocol()
    assert told["backbone_sha256"] == hashlib.sha256(BACKBONE.read_bytes()).hexdigest()
    assert told["linear_sha256"] == hashlib.sha256(LINEAR.read_bytes()).hexdigest()
    assert told["net"] == "squeeze"


@needs_weights
def test_the_linear_layers_of_torchmetrics_are_the_authors(over: Any, photographs: Any) -> None:
    config = {"type": "lpips", "net": "squeeze", "backbone": str(BACKBONE)}
    metric = over(config, photographs(2, (32, 32)))
    assert metric.start(SPEC).unavailable() is None
    own, authors = metric.judge._net.weights, load_file(LINEAR)
    for i, weight in enumerate(own):
        assert torch.allclose(weight, authors[f"lin{i}.model.1.weight"].flatten())


def test_without_weights_it_says_how_to_get_them(
    over: Any, photographs: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(url: str, timeout: float) -> Any:
        raise urllib.error.URLError(OSError("no route to host"))

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    why = over("lpips", photographs(2, (64, 64))).start(SPEC).unavailable()
    file = "alexnet-owt-7be5be79.pth"
    assert why == (
        f"weights {file} are not on this machine, and could not be fetched: no route to host; download "
        f"https://download.pytorch.org/models/{file} into {tmp_path}/hub/checkpoints, "
        "or name the file as `backbone` of the metric"
    )


def test_files_of_another_network_are_refused(over: Any, photographs: Any, tmp_path: Path) -> None:
    backbone, linear = random_weights("squeeze")
    save_file(backbone, tmp_path / "b.safetensors")
    save_file(linear, tmp_path / "l.safetensors")
    files = {"backbone": str(tmp_path / "b.safetensors"), "linear": str(tmp_path / "l.safetensors")}
    source = photographs(2, (32, 32))
    assert "lacks features" in over({"type": "lpips", "net": "alex", **files}, source).start(SPEC).unavailable()
    small = photographs(2, (16, 16))
    why = over({"type": "lpips", "net": "squeeze", **files}, small).start(SPEC).unavailable()
    assert why == "images of 16 x 16 pixels vanish in squeeze; use larger images"


@pytest.mark.parametrize("kept", [2**28, 0])
def test_originals_go_through_the_network_once(
    over: Any, photographs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    from flexframe_standard.metrics import lpips

    backbone, linear = random_weights("squeeze")
    save_file(backbone, tmp_path / "net.safetensors")
    save_file(linear, tmp_path / "linear.safetensors")
    files = {"backbone": str(tmp_path / "net.safetensors"), "linear": str(tmp_path / "linear.safetensors")}
    metric = over({"type": "lpips", "net": "squeeze", **files}, photographs(1, (32, 32)))
    assert metric.unavailable(SPEC) is None
    seen: list[int] = []
    units = Perceptual.units
    monkeypatch.setattr(Perceptual, "units", lambda net, images: (seen.append(len(images)), units(net, images))[1])
    monkeypatch.setattr(lpips, "KEPT", kept)
    real, others = torch.rand(20, 3, 32, 32) * 255, torch.rand(20, 3, 32, 32) * 255
    fakes = [real * share for share in (0.5, 0.8, 1.0)]
    told = [metric.values(real, fake) for fake in fakes] + [metric.values(others, fakes[0])]
    assert sum(seen) == (4 * 20 + 2 * 20 if kept else 8 * 20)
    net = Perceptual("squeeze")
    net.load(backbone, linear)
    for values, (a, b) in zip(told, [*((real, fake) for fake in fakes), (others, fakes[0])], strict=True):
        torch.testing.assert_close(values, net(a / 127.5 - 1, b / 127.5 - 1), rtol=1e-4, atol=1e-6)
    assert float(told[2].max()) == 0
