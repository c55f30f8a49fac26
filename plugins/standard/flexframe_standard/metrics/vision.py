"""FD-DINOv2 and CMMD: distances in the features of vision transformers, which transformers loads by name or folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as pixels  # type: ignore[import-untyped]

from flexframe.bench.metric import Measure
from flexframe.data.source import Source
from flexframe.models.fingerprint import weights
from flexframe.store.hub import fetch
from flexframe_registry import catalogue
from flexframe_standard.metrics.features import REBUILT, Compared, Stored, Task, parts
from flexframe_standard.metrics.fid import Distance, Reference
from flexframe_standard.metrics.inception import Extractor, Features, shared
from flexframe_standard.metrics.vision_config import CmmdConfig, FdDinov2Config, VisionConfig

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of colours that the networks were trained with."""
SIGMA, SCALE, BLOCK = 10.0, 1000.0, 1024
"""Of CMMD: the kernel's width and the factor; and rows at a time."""


class Vision(Extractor):
    """A transformer of transformers. Single precision throughout."""

    kind: ClassVar[str]
    """Its class there."""
    layer: ClassVar[str]
    about: ClassVar[str]
    """The way an image goes into it, for protocols."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.path = model

    def on_disk(self) -> bool:
        return Path(self.path).expanduser().is_dir()

    def load(self) -> nn.Module:
        if find_spec("transformers") is None:
            raise OSError("the package transformers is not here")
        import transformers

        where = Path(self.path).expanduser() if self.on_disk() else fetch(str(self.path))[0]
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of tensors
        net = getattr(transformers, self.kind).from_pretrained(str(where), dtype=torch.float32, use_safetensors=True)
        self.sha256 = weights(net)
        self._width = int(self.wide(net.config))
        made: nn.Module = self.reader(net.eval().requires_grad_(False))
        return made

    def remedy(self) -> str:
        return "pip install transformers, and name a folder or a repository of the hub as `model` of the metric"

    def width(self, layer: str) -> int:
        return self._width

    def facts(self) -> Mapping[str, Any]:
        return {
            "extractor": f"{self.kind} of transformers",
            "input": self.about,
            "transformers": version("transformers"),
        }

    @abstractmethod
    def wide(self, config: Any) -> int:
        """Numbers of an image, by the network's config."""

    @abstractmethod
    def reader(self, net: nn.Module) -> nn.Module:
        """The network with what stands before and behind it."""


class DINOv2(Vision):
    """Its class token behind the last norm."""

    kind, layer = "Dinov2Model", "class token"
    about = "224 pixels by Pillow's bicubic rule, colours by ImageNet's mean and deviation"

    def wide(self, config: Any) -> int:
        return int(config.hidden_size)

    def reader(self, net: nn.Module) -> nn.Module:
        return _OfDino(net)


class _OfDino(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        given = pixels.resize(images, [224, 224], v2.InterpolationMode.BICUBIC, antialias=True)
        return (self.net(pixel_values=pixels.normalize(given.float() / 255, *map(list, IMAGENET))).pooler_output,)


class CLIP336(Vision):
    """Its projected embedding, of length 1."""

    kind, layer = "CLIPVisionModelWithProjection", "embedding"
    about = "its own size by the bicubic rule without antialiasing, colours by CLIP's mean and deviation"

    def wide(self, config: Any) -> int:
        return int(config.projection_dim)

    def reader(self, net: nn.Module) -> nn.Module:
        return _OfClip(net)


class _OfClip(nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.size = net, int(net.config.image_size)

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        given = F.interpolate(images.float() / 255, (self.size, self.size), mode="bicubic")
        made: Tensor = self.net(pixel_values=pixels.normalize(given, *map(list, CLIP))).image_embeds
        return (F.normalize(made, dim=-1),)


class Seen(Compared[VisionConfig]):
    """A distance in a transformer's features: to the suite's own images, or to others."""

    extractor: ClassVar[type[Vision]]
    name: ClassVar[str]
    label: ClassVar[str]

    def __init__(self, config: VisionConfig, source: Source, task: Task = REBUILT) -> None:
        self.other: Reference | None = None
        if config.reference is not None:
            data = config.reference.like(source.config)
            self.other = Reference(catalogue().build(data, source.size, place="reference"))
        self.paired = self.other is None
        super().__init__(config, source, task)

    def network(self) -> tuple[Features, str]:
        make = partial(self.extractor, self.config.model)
        return shared(self.source, (self.extractor, self.config.model), make), self.extractor.layer

    def named(self, name: str) -> str:
        return self.name

    def note(self, usual: str) -> str:
        return usual

    def measures(self) -> Sequence[Measure]:
        what = self.task.own if self.paired else "against other images"
        note = f"{what}; by {self.config.model}; other networks' do not compare"
        return [Measure(self.name, f"{self.task.prefix}{self.label}", "lower", digits=3, note=note)]

    def protocol(self) -> Mapping[str, Any]:
        task = {"reference": self.task.reference, self.task.made: "8-bit"}
        other = {} if self.other is None else {"reference": self.other.protocol()}
        return {**self.features.facts(self.layer), **task, **other}


# --- FD-DINOv2 -------------------------------------------------------------------------------------------------------


class FdDinov2(Seen):
    """The metric of `FdDinov2Config`."""

    tally = Distance
    extractor, name, label = DINOv2, "fd-dinov2", "FD-DINOv2"
    config: FdDinov2Config

    def refusal(self, count: int) -> str | None:
        return None  # the width is known with the weights

    def unavailable(self, spec: Any) -> str | None:
        why = super().unavailable(spec)
        if why is not None or self.config.few:
            return why
        count = len(self.source) if self.other is None else min(len(self.source), self.other.count)
        width = self.features.net.width(self.layer)
        if count > width:
            return None
        told = f"{width} features need more than {width:,} images, and there are {count:,}"
        return f"{told}; raise `count`, or set `few: true`"


# --- CMMD ------------------------------------------------------------------------------------------------------------


def gaussian_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """1000 times the squared MMD with the kernel exp(-|a - b|² / (2 · 10²)), pairs of an image with itself counted."""
    return SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _mean_kernel(x: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for a in _rows(x):
        for b in _rows(y):
            squares = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T
            total += float(
                np.expm1(-squares.clip(min=0) / (2 * SIGMA**2)).sum()
            )  # less 1, which the sum of three loses
    return total / (len(x) * len(y))


def _rows(features: np.ndarray) -> Iterator[Float[np.ndarray, "b d"]]:
    for start in range(0, len(features), BLOCK):
        yield features[start : start + BLOCK].astype(np.float64)


@dataclass
class KernelDistance(Stored["Cmmd"]):
    """Embeddings of what a model made, and their distance at the end."""

    def compute(self) -> Mapping[str, float]:
        metric = self.metric
        return {metric.name: gaussian_mmd(*self._both())}

    def details(self) -> Mapping[str, Mapping[str, Any]]:
        some = parts(self.count)
        if not some or not self.metric.paired:
            return {}
        real, fake = self._both()
        values = [gaussian_mmd(real[part], fake[part]) for part in some]
        return {self.metric.name: {"subsets": {"size": len(some[0]), "values": values}}}

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        metric, features = self.metric, self.metric.features
        if metric.other is None:
            return self.pair()
        real = metric.other.rows(features, metric.layer, features.net.device)
        return real, self.fake().read(self.count)


class Cmmd(Seen):
    """The metric of `CmmdConfig`."""

    tally = KernelDistance
    extractor, name, label = CLIP336, "cmmd", "CMMD"
    config: CmmdConfig

    def refusal(self, count: int) -> str | None:
        return None if count > 1 else "one image has no distribution; raise the suite's `count`"
