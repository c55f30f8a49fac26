"""Distances of two images in the eyes of a network that was trained to tell things apart. A value a sample.

In fp32 whatever the run's precision, as in TiTok's second stage: bf16 moves the gradients of such a network by several
percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.nn.lpips import Perceptual as Network
from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.store.weights import backbone_file, linear_file, read_weights
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Spec, TokenizerConfig

from . import LPIPSConfig, PerceptualConfig
from .networks import RANDOM, Frozen, alone, full_precision, resized, timm_network, torchvision_network


def pictures(outputs: Outputs, batch: Batch, of: str) -> tuple[Float[Tensor, "b 3 h w"], Float[Tensor, "b 3 h w"]]:
    """The images and their reconstructions, or what else the decoder made; in fp32, and not clamped, so that there is
    a gradient beyond [0, 1].

    Raises:
        ValueError: there is no reconstruction, or the batch holds no images as its latents.
    """
    made = outputs.picture(of)
    if made is None or batch.latents is None:
        raise ValueError("this objective needs a decoder that reconstructs, and the batch's images as its latents")
    return batch.latents.float(), made.float()


def squared(images: Float[Tensor, "b 3 h w"], side: int | None) -> Float[Tensor, "b 3 y x"]:
    """Images brought to a square of this side, if there is one."""
    return images if side is None else resized(images, (side, side), "bilinear")


class LPIPS(Objective):
    """See `LPIPSConfig`."""

    config: LPIPSConfig

    def __init__(self, config: LPIPSConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        facts: dict[str, Any] = {"net": config.net}
        linear, facts["linear_sha256"] = read_weights(linear_file(config.net, config.linear))

        def make() -> nn.Module:
            net = Network(config.net, drawn=config.backbone == RANDOM)
            backbone: Mapping[str, Tensor]
            if config.backbone == RANDOM:
                backbone, facts["backbone"] = {f"features.{n}": v for n, v in net.net.state_dict().items()}, RANDOM
            else:
                backbone, facts["backbone_sha256"] = read_weights(backbone_file(config.net, config.backbone))
            net.load(backbone, linear)
            return net

        half = (0.5, 0.5, 0.5)
        self.judge = Frozen(alone(make), (half, half), facts)

    def check(self, model: TokenizerConfig) -> None:
        side, net = self.config.resize, self.judge.net
        assert isinstance(net, Network)
        wrong = net.vanishes((side, side) if side else model.image_size)
        if wrong is not None:
            raise ValueError(f"{wrong}; set `resize` to a larger side")

    def facts(self) -> Mapping[str, Any]:
        return self.judge.facts

    @full_precision
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        real, fake = (
            self.judge.normalised(squared(each, self.config.resize))
            for each in pictures(outputs, batch, self.config.of)
        )
        net = self.judge.net
        assert isinstance(net, Network)
        with torch.no_grad():
            wanted = net.units(real)
        return {"distance": net.distance(net.units(fake), wanted)}


class Perceptual(Objective):
    """See `PerceptualConfig`."""

    config: PerceptualConfig

    def __init__(self, config: PerceptualConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        make = {"torchvision": torchvision_network, "timm": timm_network}[config.library]
        self.judge = make(config.net, config.weights)

    def facts(self) -> Mapping[str, Any]:
        return {"library": self.config.library, **self.judge.facts}

    @full_precision
    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        real, fake = pictures(outputs, batch, self.config.of)
        with torch.no_grad():
            wanted = self.seen(real)
        return {self.config.compare: (self.seen(fake) - wanted).square().flatten(1).mean(1)}

    def seen(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b ..."]:
        """Outputs of the network for images in [0, 1]."""
        given = self.judge.normalised(squared(images, self.config.resize))
        net: Any = self.judge.net
        return net(given) if self.config.compare == "logits" else net.forward_features(given)
