"""LPIPS (Zhang et al., 2018): the distance of two images in the features of a classification network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.bench.metric import Measure
from flexframe.data.source import Source
from flexframe.nn.lpips import BACKBONES, TILE, Perceptual
from flexframe.store.weights import TORCHVISION, backbone_file, linear_file, read_weights, remedy, unread
from flexframe_registry import Spec
from flexframe_standard.metrics.lpips_config import LpipsConfig
from flexframe_standard.metrics.per_image import PerImage

KEPT = 2**28
"""Bytes of features of originals that are kept at most."""


class Lpips(PerImage[LpipsConfig]):
    """The mean over images. Reconstructions are not rounded unless the config says so."""

    def __init__(self, config: LpipsConfig, source: Source) -> None:
        super().__init__(config, source)
        self.judge = _Judge(config, source.size)
        self.measure = Measure(
            "lpips", "LPIPS", "lower", digits=3, note=f"{config.net}; other networks' do not compare"
        )

    def unavailable(self, spec: Spec) -> str | None:
        return self.judge.unavailable()

    def values(self, real: Float[Tensor, "b 3 h w"], fake: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return self.judge(real / 127.5 - 1, fake / 127.5 - 1)

    def protocol(self) -> Mapping[str, Any]:
        return {**super().protocol(), **self.judge.facts(), "input": "[-1, 1], not resized"}


class _Judge:
    """The network that all tallies share, loaded when it is first asked for."""

    def __init__(self, config: LpipsConfig, size: tuple[int, int]) -> None:
        self.config, self.size = config, size
        self.hashes: dict[str, str] = {}
        self._net: Perceptual | None = None
        self._why: str | None = None
        self._seen: tuple[Tensor, list[list[Tensor]]] | None = None

    def facts(self) -> dict[str, Any]:
        return {"net": self.config.net, **self.hashes, "torchvision": version("torchvision")}

    def unavailable(self) -> str | None:
        if self._net is None and self._why is None:
            how = remedy(TORCHVISION + BACKBONES[self.config.net][1], "backbone")
            try:
                net = Perceptual(self.config.net)
                backbone = self._read("backbone", backbone_file(self.config.net, self.config.backbone))
                how = "the linear layers come with torchmetrics; or name their file as `linear` of the metric"
                net.load(backbone, self._read("linear", linear_file(self.config.net, self.config.linear)))
                self._net = net
            except Exception as error:  # whatever a file or a network does, the other numbers stand
                self._why = f"{unread(error)}; {how}"
            else:
                vanishing = net.vanishes(self.size)
                self._why = vanishing and f"{vanishing}; use larger images"
        return self._why

    @torch.no_grad()
    def __call__(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        net = self._net
        if net is None:
            raise ValueError(self.unavailable())
        net.to(a.device)
        pairs = zip(self._originals(net, a), torch.split(b, TILE), strict=True)
        return torch.cat([net.distance(units, net.units(others)) for units, others in pairs])

    def _originals(self, net: Perceptual, images: Float[Tensor, "b 3 h w"]) -> Iterator[list[Tensor]]:
        """Features of originals by tile. Every model and token count is compared with the same: the last batch's stay,
        unless they are large."""
        if self._seen is not None and torch.equal(self._seen[0], images):
            yield from self._seen[1]
            return
        self._seen, size = None, 0
        kept: list[list[Tensor]] = []
        for tile in torch.split(images, TILE):
            units = net.units(tile)
            yield units
            size += sum(each.nbytes for each in units)
            kept = [*kept, units] if size <= KEPT else []
        if size <= KEPT:
            self._seen = images, kept

    def _read(self, what: str, path: Path) -> Mapping[str, Tensor]:
        tensors, self.hashes[f"{what}_sha256"] = read_weights(path)
        return tensors
