"""Networks that read scenes' attributes, by architecture."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexframe_standard.sources.scenes.patches import ScenePatches
from flexframe_standard.sources.scenes_config import WORDS

SIZE = 64
"""Height and width of the pictures that they read."""


class SceneNet(nn.Module):
    """A small residual network, with a pixel's place beside its colour, and a head for each attribute."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, SIZE)
        self.register_buffer("places", torch.stack(torch.meshgrid(line, line, indexing="ij")), persistent=False)
        self.trunk = nn.Sequential(
            _down(5, 24), _down(24, 48), Residual(48), _down(48, 80), Residual(80), nn.BatchNorm2d(80), nn.ReLU()
        )
        self.heads = nn.ModuleDict({name: nn.Linear(160, len(words)) for name, words in WORDS.items()})

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> dict[str, Float[Tensor, "b v"]]:
        """Logits of each attribute's values, of images in [0, 1]."""
        places = self.get_buffer("places").to(images.dtype).expand(len(images), -1, -1, -1)
        features = self.trunk(torch.cat([2 * images - 1, places], 1))
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        changed: Tensor = self.body(x)
        return x + changed


def _down(width: int, wider: int) -> nn.Sequential:
    """Half the height and width."""
    return nn.Sequential(nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU())


ARCHITECTURES: Mapping[str, type[nn.Module]] = {"convolutional": SceneNet, "transformer": ScenePatches}
