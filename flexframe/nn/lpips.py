"""The network of LPIPS (Zhang et al., 2018): the distance of two images in features learned for recognition."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn

BACKBONES = {
    # torchvision's model, its file, and the layers whose outputs are compared: each stage's last ReLU
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "vgg": ("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}

TILE = 16
"""Images that go through the network at once, however large the batch."""


class Perceptual(nn.Module):
    """The network: differences of unit-length features, weighted by channel, averaged over places, summed over layers.

    Images are in [-1, 1].

    Args:
        net: one of `BACKBONES`.
        drawn: whether its own weights are drawn; otherwise it has none until they are loaded.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, *, drawn: bool = False) -> None:
        super().__init__()
        import torchvision  # type: ignore[import-untyped]  # seconds to import

        name, _, self.taps = BACKBONES[net]
        self.name = net
        with nullcontext() if drawn else torch.device("meta"):  # a classifier of many weights stands behind it
            self.net = getattr(torchvision.models, name)(weights=None).features[: self.taps[-1] + 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.weights = nn.ParameterList()
        self.requires_grad_(False).eval()

    def load(self, backbone: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        """Take the weights of torchvision's model, and of the linear layers as the authors publish them.

        Raises:
            ValueError: a file lacks tensors of this network.
        """
        own = self.net.state_dict()
        lacking = sorted(name for name in own if f"features.{name}" not in backbone)
        if lacking:
            raise ValueError(f"the backbone's file lacks features.{lacking[0]} and {len(lacking) - 1} others")
        self.net.load_state_dict({name: backbone[f"features.{name}"].float() for name in own}, assign=True)
        names = [f"lin{i}.model.1.weight" for i in range(len(self.taps))]
        absent = [name for name in names if name not in linear]
        if absent:
            raise ValueError(f"the linear layers' file lacks {absent[0]}; is it for another network?")
        self.weights = nn.ParameterList([linear[name].float().flatten() for name in names]).requires_grad_(False)

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair; 0 where two images are equal."""
        pairs = [unit.chunk(2) for unit in self.units(torch.cat([a, b]))]
        return self.distance([one for one, _ in pairs], [other for _, other in pairs])

    def units(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Features of each tapped layer, of unit length at each place."""
        x, units = (images - self.shift) / self.scale, []
        for i, layer in enumerate(self.net):
            x = layer(x)
            if i in self.taps:
                units.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return units

    def distance(self, one: list[Tensor], other: list[Tensor]) -> Float[Tensor, " b"]:
        """The distance of images with these `units`."""
        total = one[0].new_zeros(len(one[0]))
        for a, b, weights in zip(one, other, self.weights, strict=True):
            total = total + ((a - b).square() * weights[:, None, None]).sum(1).mean((1, 2))
        return total

    def vanishes(self, size: tuple[int, int]) -> str | None:
        """The trouble with images of this size, if pooling leaves nothing of them; None otherwise."""
        blank = torch.zeros(1, 3, *size)
        try:
            distance = self(blank, blank)
        except RuntimeError:  # a pooling layer without an output
            distance = blank.new_tensor([torch.nan])
        if bool(torch.isfinite(distance).all()):
            return None
        return f"images of {size[0]} x {size[1]} pixels vanish in {self.name}"
