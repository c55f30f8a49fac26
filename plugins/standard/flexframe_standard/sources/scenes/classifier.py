"""The classifier of scenes' attributes that ships with the source. `tools/train_scene_classifier.py` trains it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors import safe_open
from torch import Tensor, nn

from flexframe.data.source import AttributeClassifier
from flexframe.files import sha256
from flexframe_standard.sources.scenes.render import VERSION
from flexframe_standard.sources.scenes_config import WORDS, ScenesConfig

FILE = Path(__file__).with_name("classifier.safetensors")
SIZE = 64
"""Height and width of the pictures that it reads; others are brought to it."""
RESIZE = "bilinear, antialiased"


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


class SceneClassifier(AttributeClassifier):
    """The shipped network, asked for what shows in the scenes of one config."""

    label = "shape"

    def __init__(self, net: SceneNet, facts: Mapping[str, Any], config: ScenesConfig) -> None:
        self.net, self.facts, self.values = net, facts, config.chances()
        self.level = str(config.complexity)

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "b 3 h w"]) -> dict[str, Int[Tensor, " b"]]:
        return {name: logits.argmax(1) for name, logits in self.logits(images.float() / 255).items()}

    def logits(self, images: Float[Tensor, "b 3 h w"]) -> dict[str, Float[Tensor, "b v"]]:
        if images.shape[2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        logits = self.net.to(images.device)(images)
        return {name: logits[name] for name in self.values}

    def protocol(self) -> Mapping[str, Any]:
        told = {name: self.facts[name] for name in ("renderer", "sha256", "trained_on", "accuracy_percent")}
        return {"classifier": "scenes, convolutional", "input_size": SIZE, "resize_to_input": RESIZE, **told}


def shipped(config: ScenesConfig) -> SceneClassifier:
    """The shipped classifier. `ValueError` where it was trained on scenes that were drawn otherwise."""
    return SceneClassifier(*load(FILE), config)


@cache
def load(path: Path) -> tuple[SceneNet, Mapping[str, Any]]:
    """A network and what its file says of it."""
    if not path.is_file():
        raise ValueError(f"there is no classifier of scenes at {path}; train it with tools/train_scene_classifier.py")
    with safe_open(path, "pt") as file:
        facts = json.loads((file.metadata() or {}).get("scenes", "{}"))
        if facts.get("renderer") != VERSION:
            raise ValueError(
                f"the scenes' classifier {path} was trained on scenes of renderer {facts.get('renderer')}, and these "
                f"are of renderer {VERSION}; train it anew with tools/train_scene_classifier.py"
            )
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    net = SceneNet()
    net.load_state_dict({name: value.float() if value.is_floating_point() else value for name, value in state.items()})
    return net.eval(), {**facts, "sha256": sha256(path)}
