"""DISTS (Ding et al., 2020, arXiv 2004.07728): how alike two images are in structure and texture of VGG-16's features.

Of the image itself and of the last ReLU of each of VGG-16's five stages, whose pooling is an L2 pooling with a Hanning
window, the means (texture) and the covariances (structure) of each channel are compared as SSIM does, and weighted.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flexframe.bench.metric import Measure
from flexframe.data.source import Source
from flexframe.nn.lpips import BACKBONES, TILE
from flexframe.store.weights import TORCHVISION, backbone_file, read_weights, remedy, unread
from flexframe_registry import Spec
from flexframe_standard.metrics.dists_config import DistsConfig
from flexframe_standard.metrics.per_image import PerImage

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTHS = (3, 64, 128, 256, 512, 512)
"""Channels of what is compared: of the image, and of each stage."""
SMALL = 1e-6


class Structure(nn.Module):
    """The network; images are in [0, 1]."""

    hann: Tensor
    mean: Tensor
    deviation: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self) -> None:
        super().__init__()
        import torchvision  # type: ignore[import-untyped]  # seconds to import

        taps = BACKBONES["vgg"][2]
        with torch.device("meta"):  # a classifier of many weights stands behind it
            self.net = torchvision.models.vgg16(weights=None).features[: taps[-1] + 1]
        window = torch.hann_window(5, periodic=False, dtype=torch.float64)[1:-1]
        self.register_buffer("hann", (window[:, None] * window / window.sum() ** 2).float())
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None])
        for name in ("alpha", "beta"):
            self.register_buffer(name, torch.zeros(sum(WIDTHS)))
        self.requires_grad_(False).eval()

    def load(self, backbone: Mapping[str, Tensor], channels: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's VGG-16, and those by channel as the authors publish them.

        Raises:
            ValueError: a file lacks tensors of this network.
        """
        own = self.net.state_dict()
        lacking = sorted(name for name in own if f"features.{name}" not in backbone)
        lacking += [name for name in ("alpha", "beta") if channels.get(name, own["0.bias"]).numel() != sum(WIDTHS)]
        if lacking:
            raise ValueError(
                f"the files lack {lacking[0]} and {len(lacking) - 1} others; are they for another network?"
            )
        self.net.load_state_dict({name: backbone[f"features.{name}"].float() for name in own}, assign=True)
        self.alpha, self.beta = (channels[name].float().flatten() for name in ("alpha", "beta"))

    def stages(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c y x"]]:
        """Features that are compared."""
        x, found = (images - self.mean) / self.deviation, [images]
        for i, layer in enumerate(self.net):
            x = self._pooled(x) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if i in BACKBONES["vgg"][2]:
                found.append(x)
        return found

    def _pooled(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c v u"]:
        kernel = self.hann.to(x).expand(x.shape[1], 1, 3, 3)
        squares = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1])
        return (squares + 1e-12).sqrt()

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair: 0 where two images are equal."""
        total, whole, at = a.new_zeros(len(a)), self.alpha.sum() + self.beta.sum(), 0
        for x, y, width in zip(self.stages(a), self.stages(b), WIDTHS, strict=True):
            mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
            off_x, off_y = x - mean_x[..., None, None], y - mean_y[..., None, None]
            spread = off_x.square().mean((2, 3)) + off_y.square().mean((2, 3))
            texture = (2 * mean_x * mean_y + SMALL) / (mean_x.square() + mean_y.square() + SMALL)
            structure = (2 * (off_x * off_y).mean((2, 3)) + SMALL) / (spread + SMALL)
            alpha, beta = self.alpha[at : at + width], self.beta[at : at + width]
            total = total + (alpha * (1 - texture)).sum(1) + (beta * (1 - structure)).sum(1)
            at += width
        return total / whole


class Dists(PerImage[DistsConfig]):
    """The mean over images. Reconstructions are not rounded unless the config says so."""

    measure = Measure("dists", "DISTS", "lower", digits=3)

    def __init__(self, config: DistsConfig, source: Source) -> None:
        super().__init__(config, source)
        self.hashes: dict[str, str] = {}
        self._net: Structure | None = None
        self._why: str | None = None

    def unavailable(self, spec: Spec) -> str | None:
        if self._net is None and self._why is None:
            how = remedy(TORCHVISION + BACKBONES["vgg"][1], "backbone")
            try:
                net = Structure()
                backbone = self._read("backbone", backbone_file("vgg", self.config.backbone))
                how = "the weights by channel come with torchmetrics; or name their file as `weights` of the metric"
                net.load(backbone, self._read("weights", channels_file(self.config.weights)))
                self._net = net
            except Exception as error:  # whatever a file or a network does, the other numbers stand
                self._why = f"{unread(error)}; {how}"
        return self._why

    @torch.no_grad()
    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        net = self._net
        if net is None:
            raise ValueError(self._why)
        net.to(real.device)
        pairs = zip(torch.split(real / 255, TILE), torch.split(fake / 255, TILE), strict=True)
        return torch.cat([net(some, others) for some, others in pairs])

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), **self.hashes, "input": "[0, 1], not resized"}

    def _read(self, what: str, path: Path) -> Mapping[str, Tensor]:
        tensors, self.hashes[f"{what}_sha256"] = read_weights(path)
        return tensors


def channels_file(given: str | None) -> Path:
    """The file of the weights by channel: the given one, or torchmetrics'."""
    if given is not None:
        return Path(given).expanduser()
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "functional" / "image" / "dists_models" / "weights.pt"
