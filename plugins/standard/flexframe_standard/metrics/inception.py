"""Features of torch-fidelity's Inception network, which all metrics of a run that are made of them share."""

from __future__ import annotations

import hashlib
import io
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flexframe.bench.metric import Scratch
from flexframe.data.source import Source
from flexframe.store.weights import hub_file, published, remedy, unread
from flexframe_standard.metrics.feature_files import DIGEST, Cache, Rows, digests

FILE = "weights-inception-2015-12-05-6726825d.pth"
SITE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
URL = SITE + FILE
EXTRACTOR = "torch-fidelity inception-v3-compat, resizing to 299 pixels inside"
LOGITS = "logits_unbiased"
SPATIAL, CHANNELS = "spatial", 7
"""The layer of sFID: `mixed_6/conv` of the graph of 2015, the branch of 1 x 1 in Mixed_6d behind its ReLU, of which ADM
(Dhariwal and Nichol, 2021) takes the first channels at all 17 x 17 places."""
WIDTHS = {"64": 64, "192": 192, "768": 768, "2048": 2048, LOGITS: 1008, SPATIAL: 17 * 17 * CHANNELS}
"""Width of each layer."""
BEHIND = frozenset({"768", "2048", LOGITS})
"""Layers for which an image passes Mixed_6d."""
T = TypeVar("T")


class Moments:
    """Mean and covariance of a stream of feature vectors, in float64 and constant memory."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.outer = torch.zeros(width, width, dtype=torch.float64)

    def add(self, features: Float[Tensor, "b d"]) -> None:
        """Take in vectors."""
        features = features.double().cpu()
        self.count += len(features)
        self.total += features.sum(0)
        self.outer += features.T @ features

    def statistics(self) -> dict[str, np.ndarray]:
        """`mu` and the unbiased `sigma`, under torch-fidelity's names."""
        mean = self.total / self.count
        covariance = (self.outer - self.count * mean[:, None] * mean) / (self.count - 1)
        return {"mu": mean.numpy(), "sigma": covariance.numpy()}


class Extractor(ABC):
    """A network whose features images are compared in, loaded when it is first asked for: one pass of a batch gives
    every layer that anybody wants."""

    path: Path | str
    """The place of its weights, for messages."""

    def __init__(self) -> None:
        self.sha256: str | None = None
        self.layers: list[str] = []
        self._net: nn.Module | None = None
        self._why: str | None = None
        self._last: tuple[Tensor, Mapping[str, Tensor]] | None = None
        self.device = torch.device("cpu")
        """The device that it last ran on."""

    def want(self, layer: str) -> None:
        """Ask for a layer, before the first images."""
        if layer not in self.layers:
            self.layers.append(layer)
            self._net = self._last = None

    def unavailable(self) -> str | None:
        """Load the network; the reason if that fails."""
        if self._net is None and self._why is None:
            try:
                self._net = self.load()
            except Exception as error:  # whatever a file or a network does, the other numbers stand
                self._why = f"{unread(error)}; {self.remedy()}"
        return self._why

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> Mapping[str, Float[Tensor, "b d"]]:
        """Features by layer. Metrics ask for the same batch one after the other; it goes through the network once.

        Raises:
            ValueError: the weights cannot be had.
        """
        if self._last is None or self._last[0] is not images:
            why = self.unavailable()
            if self._net is None:
                raise ValueError(why)
            self.device = images.device
            features = self._net.to(self.device)(images)
            self._last = images, dict(zip(self.layers, features, strict=True))
        return self._last[1]

    @abstractmethod
    def load(self) -> nn.Module:
        """The network, which gives the layers that are wanted of 8-bit images, in their order; sets `sha256`."""

    @abstractmethod
    def on_disk(self) -> bool:
        """Say whether the weights are there without a download."""

    @abstractmethod
    def remedy(self) -> str:
        """Say what to do where it cannot be loaded."""

    @abstractmethod
    def width(self, layer: str) -> int:
        """Numbers of an image at a layer. Asked once it is loaded."""

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """Its name, and versions of what it rests on."""


class Inception(Extractor):
    """torch-fidelity's network."""

    path: Path

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.given = weights
        self.path = Path(weights).expanduser() if weights else hub_file(FILE)

    def on_disk(self) -> bool:
        """Say whether the weights are there without a download."""
        return self.path.is_file()

    def load(self) -> nn.Module:
        """The network, its weights fetched if no file was named."""
        if not self.on_disk():
            self._fetch()
        content = self.path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        return build(content, self.layers)

    def remedy(self) -> str:
        return remedy(URL, "weights")

    def width(self, layer: str) -> int:
        return WIDTHS[layer]

    def facts(self) -> Mapping[str, Any]:
        return {"extractor": EXTRACTOR, "torch-fidelity": version("torch-fidelity")}

    def _fetch(self) -> None:
        if self.given is not None:
            raise FileNotFoundError(f"no file {self.path}")
        published(FILE, SITE)


def build(content: bytes, layers: list[str]) -> nn.Module:
    """torch-fidelity's network with the weights of a file, which is read as tensors only."""
    from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-untyped]
        FeatureExtractorInceptionV3,
    )

    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # torch-fidelity unpickles what it is given, so it is given a file of our own making
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "weights.pth"
        torch.save({name: torch.as_tensor(value) for name, value in state.items()}, ours)
        own = [layer for layer in layers if layer != SPATIAL]
        tapped = len(own) < len(layers)
        own += [] if not tapped or BEHIND & set(own) else ["768"]
        net: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", own, feature_extractor_weights_path=str(ours)
        )
    return Tapped(quicker(net), own, layers) if tapped else quicker(net)


class Tapped(nn.Module):
    """torch-fidelity's network, with the layer of sFID, which it does not give."""

    def __init__(self, net: Any, own: list[str], layers: list[str]) -> None:
        super().__init__()
        self.net, self.own, self.layers = net, own, list(layers)
        self._seen: Tensor | None = None
        net.Mixed_6d.branch1x1.register_forward_hook(self._see)

    def _see(self, module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        self._seen = made

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        found = dict(zip(self.own, self.net(images), strict=True))
        assert self._seen is not None, "every image passes Mixed_6d"
        # channels last, as TensorFlow has them and statistics of others are
        found[SPATIAL] = self._seen[:, :CHANNELS].permute(0, 2, 3, 1).flatten(1).float()
        self._seen = None
        return tuple(found[layer] for layer in self.layers)


def quicker(net: nn.Module) -> nn.Module:
    """The same network, each batch norm folded into the convolution before it, and laid out as a CPU convolves fastest:
    0.78 of the time, and features as near to those in float64 (no group norm is in it, which would lose digits so)."""
    for block in net.modules():
        conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            block.conv, block.bn = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return net.to(memory_format=torch.channels_last)


class Features:
    """A run's network, and what it makes of the originals: computed once for all models, budgets and metrics.

    Tallies hand in each batch of originals with its position. The first one to do so moves it through the network,
    except for images whose features an earlier run has kept.
    """

    def __init__(self, net: Extractor) -> None:
        self.net = net
        self.layers: list[str] = []
        """Layers that are wanted of the originals too."""
        self.finite: dict[str, bool] = {}
        self._scratch: Scratch | None = None
        self._caches: dict[str, Cache] = {}
        self._done = 0
        self._last: Tensor | None = None
        self._derived: dict[tuple[Any, ...], Any] = {}

    def want(self, layer: str, originals: bool = True) -> None:
        """Ask for a layer, before the first images; of the reconstructions alone if not of `originals`."""
        self.net.want(layer)
        if originals and layer not in self.layers:
            self.layers.append(layer)

    def facts(self, layer: str, device: torch.device | None = None) -> dict[str, Any]:
        """Facts that move a feature beside the image; without `device` it is the one that the network last ran on."""
        device = device or self.net.device
        exact = {"float32": torch.get_float32_matmul_precision(), "tf32": torch.backends.cudnn.allow_tf32}
        return {
            **self.net.facts(),
            "layer": layer,
            "weights_sha256": self.net.sha256,
            "extracted_on": {"device": device.type, **(exact if device.type == "cuda" else {})},
        }

    def rows(self, folder: Path, layer: str, what: str) -> Rows:
        """The file for this network's features of a layer in a folder."""
        return Rows(folder / f"{what}-{str(self.net.sha256)[:12]}-{layer}.rows", self.net.width(layer))

    def originals(self, at: int, images: UInt8[Tensor, "b 3 h w"], scratch: Scratch) -> None:
        """Keep the features of originals `at` and after it. That others have handed them in already is usual.

        Raises:
            ValueError: other images than those that stand at that position.
        """
        if images is self._last and at + len(images) <= self._done:
            return
        why = self.net.unavailable()
        if why is not None:
            raise ValueError(why)
        self._scratch = self._scratch or scratch
        hashes = digests(images)
        if at + len(images) <= self._done:
            if not np.array_equal(self._hashes().read(at + len(images), at), hashes.numpy()):
                raise ValueError(f"originals from {at} on are others than before; all models see the same images")
            return
        self._hashes().write(at, hashes)
        features = self._features(images, hashes)
        for layer, rows in features.items():
            self.finite[layer] = self.finite.get(layer, True) and bool(torch.isfinite(rows).all())
            self.rows(self._scratch.common, layer, "originals").write(at, rows)
        self._done, self._last = at + len(images), images

    def reference(self, layer: str) -> Rows:
        """The originals' features."""
        assert self._scratch is not None, "no originals were handed in"
        return self.rows(self._scratch.common, layer, "originals")

    def moments(self, layer: str, count: int) -> Moments:
        """Moments of the first `count` originals."""

        def compute() -> Moments:
            moments = Moments(self.net.width(layer))
            for block in self.reference(layer).blocks(count):
                moments.add(block)
            return moments

        return self.derived(("moments", layer, count), compute)

    def derived(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """A value that follows from the originals alone, computed when the first model asks for it."""
        if key not in self._derived:
            self._derived[key] = make()
        value: T = self._derived[key]
        return value

    def keep(self, layer: str, count: int) -> None:
        """Keep the originals' features for later runs."""
        kept = self._hashes().read(count), self.reference(layer).read(count)
        self.derived(("kept", layer, count), lambda: self._caches[layer].publish(*kept))

    def _hashes(self) -> Rows:
        assert self._scratch is not None
        return Rows(self._scratch.common / "originals.sha256", DIGEST, np.uint8)

    def _features(self, images: Tensor, hashes: Tensor) -> dict[str, Tensor]:
        keys = [row.tobytes() for row in hashes.numpy()]
        known: dict[str, list[Tensor | None]] = {}
        for layer in self.layers:
            if layer not in self._caches:
                self._caches[layer] = Cache({**self.facts(layer, images.device), "torch": torch.__version__})
            known[layer] = [self._caches[layer].find(key) for key in keys]
        lacking = [i for i in range(len(keys)) if any(rows[i] is None for rows in known.values())]
        made = self.net(images[lacking]) if lacking else {}
        whole = {}
        for layer, rows in known.items():
            for place, i in enumerate(lacking):
                rows[i] = made[layer][place].float().cpu()
            whole[layer] = torch.stack([row for row in rows if row is not None])
        return whole


_SHARED: WeakKeyDictionary[Source, dict[Any, Features]] = WeakKeyDictionary()


def shared(source: Source, key: Any, make: Callable[[], Extractor]) -> Features:
    """The one `Features` of a network, told by `key`, for all metrics over a source."""
    own = _SHARED.setdefault(source, {})
    if key not in own:
        own[key] = Features(make())
    return own[key]


def inception(source: Source, weights: str | None) -> Features:
    """The one `Features` of Inception with these weights for all metrics over a source."""
    return shared(source, ("inception", weights), lambda: Inception(weights))
