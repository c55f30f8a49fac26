"""LPIPS (Zhang et al., 2018): the distance of two images in the features of a classification network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.builtin.features import fetch
from flexframe.builtin.metrics import PerImage
from flexframe.contracts import Measure, Source
from flexframe.importing.foreign import TensorFile
from flexframe_registry import MetricConfig

BACKBONES = {
    # torchvision's model, its file, and the layers whose outputs are compared: each stage's last ReLU
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "vgg": ("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}
URL = "https://download.pytorch.org/models/"
TILE = 16
"""Images that go through the network at once, however large the batch."""


class Perceptual(nn.Module):
    """The network: differences of unit-length features, weighted by channel, averaged over places, summed over layers.

    Images are in [-1, 1].
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str) -> None:
        super().__init__()
        import torchvision  # seconds to import

        name, _, self.taps = BACKBONES[net]
        self.name = net
        self.net = getattr(torchvision.models, name)(weights=None).features[: self.taps[-1] + 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.weights = nn.ParameterList()
        self.requires_grad_(False).eval()

    def load(self, backbone: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's model, and of the linear layers as the authors publish them."""
        own = self.net.state_dict()
        lacking = sorted(name for name in own if f"features.{name}" not in backbone)
        if lacking:
            raise ValueError(f"the backbone's file lacks features.{lacking[0]} and {len(lacking) - 1} others")
        self.net.load_state_dict({name: backbone[f"features.{name}"].float() for name in own})
        names = [f"lin{i}.model.1.weight" for i in range(len(self.taps))]
        absent = [name for name in names if name not in linear]
        if absent:
            raise ValueError(f"the linear layers' file lacks {absent[0]}; is it for another network?")
        self.weights = nn.ParameterList([linear[name].float().flatten() for name in names]).requires_grad_(False)

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        pairs = [unit.chunk(2) for unit in self.units(torch.cat([a, b]))]
        return self.distance([one for one, _ in pairs], [other for _, other in pairs])

    def units(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of each tapped layer, of unit length at each place."""
        x, found = (images - self.shift) / self.scale, []
        for i, layer in enumerate(self.net):
            x = layer(x)
            if i in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found

    def distance(self, one: list[Tensor], other: list[Tensor]) -> Float[Tensor, " b"]:
        """The distance of images with these `units`."""
        total = one[0].new_zeros(len(one[0]))
        for a, b, weights in zip(one, other, self.weights, strict=True):
            total = total + ((a - b).square() * weights[:, None, None]).sum(1).mean((1, 2))
        return total

    def vanishes(self, size: tuple[int, int]) -> str | None:
        """What is wrong with images of this size, if pooling leaves nothing of them."""
        blank = torch.zeros(1, 3, *size)
        try:
            found = self(blank, blank)
        except RuntimeError:  # a pooling layer without an output
            found = blank.new_tensor([torch.nan])
        if bool(torch.isfinite(found).all()):
            return None
        return f"images of {size[0]} x {size[1]} pixels vanish in {self.name}"


class Lpips(PerImage):
    """The mean over images. Reconstructions are not rounded unless the config says so."""

    def __init__(self, config: MetricConfig, source: Source) -> None:
        super().__init__(config, source)
        self.judge = _Judge(config, source.size)
        self.measure = Measure(
            "lpips", "LPIPS", "lower", digits=3, note=f"{config.net}; other networks' do not compare"
        )

    def unavailable(self) -> str | None:
        return self.judge.unavailable()

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return self.judge(real / 127.5 - 1, fake / 127.5 - 1)

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), **self.judge.facts(), "input": "[-1, 1], not resized"}


class _Judge:
    """The network that all tallies share, loaded when it is first asked for."""

    def __init__(self, config: MetricConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size
        self.hashes: dict[str, str] = {}
        self._net: Perceptual | None = None
        self._why: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"net": self.config.net, **self.hashes, "torchvision": version("torchvision")}

    def unavailable(self) -> str | None:
        if self._net is None and self._why is None:
            try:
                net = Perceptual(self.config.net)
                net.load(
                    self._read("backbone", backbone_file(self.config.net, self.config.backbone)),
                    self._read("linear", linear_file(self.config.net, self.config.linear)),
                )
                self._net = net
            except Exception as error:  # whatever a file or a network does, the other numbers stand
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
                self._why = f"LPIPS weights cannot be had ({reason}); {self._how()}"
            else:
                found = net.vanishes(self.size)
                self._why = found and f"{found}; use larger images"
        return self._why

    @torch.no_grad()
    def __call__(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        net = self._net
        if net is None:
            raise ValueError(self.unavailable())
        net.to(a.device)
        pairs = zip(a.split(TILE), b.split(TILE), strict=True)
        return torch.cat([net(some, others) for some, others in pairs])

    def _how(self) -> str:
        _, file, _ = BACKBONES[self.config.net]
        return (
            f"download {URL}{file} and name it as `backbone` of the lpips metric, or put it in torch's hub folder; "
            "the linear layers come with torchmetrics, or name their file as `linear`"
        )

    def _read(self, what: str, path: Path) -> Mapping[str, Tensor]:
        found, self.hashes[f"{what}_sha256"] = read_weights(path)
        return found


def backbone_file(net: str, given: str | None) -> Path:
    """The file of torchvision's weights: the given one, or the published one, fetched if need be."""
    if given is not None:
        return Path(given).expanduser()
    return published(BACKBONES[net][1])


def published(file: str) -> Path:
    """A file of torchvision's in torch's hub folder, fetched if need be; its name says what it hashes to."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        fetch(URL + file, file.rpartition("-")[2].removesuffix(".pth"), path)
    return path


def linear_file(net: str, given: str | None) -> Path:
    """The file of the weights by channel: the given one, or torchmetrics'."""
    if given is not None:
        return Path(given).expanduser()
    found = find_spec("torchmetrics")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Tensors of a file, and its sha256. A pickle is read as tensors only."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return dict(TensorFile([path])), digest
