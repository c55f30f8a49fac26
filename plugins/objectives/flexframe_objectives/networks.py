"""Frozen networks that judge or teach. No modules of a run's: no checkpoint has them, no optimizer sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.store import hub
from flexframe.store.weights import published, read_weights
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry.errors import nearest

Forward = TypeVar("Forward", bound=Callable[..., Losses])
RANDOM = "random"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Frozen:
    """A network, what its images are normalised by, and what it was made of."""

    def __init__(self, net: nn.Module, norm: Sequence[Sequence[float]], facts: Mapping[str, Any]) -> None:
        self.net, self.facts = net.eval().requires_grad_(False), facts
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in norm)

    def to(self, device: torch.device) -> None:
        """Move it where images are; nothing where it is there already."""
        if self.mean.device != device:
            self.net.to(device)
            self.mean, self.std = self.mean.to(device), self.std.to(device)

    def normalised(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [0, 1] as the network wants them, and the network where they are."""
        self.to(images.device)
        return (images - self.mean) / self.std


def full_precision(forward: Forward) -> Forward:
    """An objective's forward without autocast: all of it in the type of what it is given, which is fp32."""

    @wraps(forward)
    def inner(self: Any, outputs: Outputs, batch: Batch, **named: Any) -> Losses:
        with torch.autocast(batch.index.device.type, enabled=False):
            return forward(self, outputs, batch, **named)

    return inner  # type: ignore[return-value]


def resized(images: Float[Tensor, "b 3 h w"], size: tuple[int, int], mode: str) -> Float[Tensor, "b 3 y x"]:
    """Images of another size, without aliasing."""
    return F.interpolate(images, size, mode=mode, align_corners=False, antialias=True)


def alone(make: Callable[[], nn.Module]) -> nn.Module:
    """A network built on the CPU from seed 0, that draws nothing from the run."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def filled(net: nn.Module, name: str, file: Path) -> dict[str, Any]:
    """Put a file's tensors into a network; returns what it was for the manifest. What the network lacks is left out.

    Raises:
        ValueError: the file lacks tensors of the network, or one has another shape.
    """
    state, digest = read_weights(file)
    own = net.state_dict()
    lacking = sorted(own.keys() - state.keys())
    if lacking:
        raise ValueError(f"{file} is not of {name}: it lacks {lacking[0]} and {len(lacking) - 1} others")
    wrong = [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        shapes = f"{tuple(state[wrong[0]].shape)}, and the network's {tuple(own[wrong[0]].shape)}"
        raise ValueError(f"{file} is not of {name}: its {wrong[0]} is {shapes}")
    net.load_state_dict({key: state[key].to(own[key].dtype) for key in own})
    return {"net": name, "weights": file.name, "sha256": digest}


def torchvision_network(name: str, weights: str | None) -> Frozen:
    """A classification network of torchvision's; its published weights are the first of its ImageNet-1k ones.

    Raises:
        ValueError: the name is unknown, or the file is not of this network.
    """
    from torchvision import models  # seconds to import

    if name not in models.list_models():
        raise ValueError(f"torchvision has no network {name!r}.{nearest(name, models.list_models())}")
    net = alone(lambda: models.get_model(name, weights=None))
    if weights == RANDOM:
        return Frozen(net, IMAGENET, {"net": name, "weights": RANDOM})
    if weights is not None:
        return Frozen(net, IMAGENET, filled(net, name, Path(weights).expanduser()))
    url = models.get_model_weights(name).IMAGENET1K_V1.url
    return Frozen(net, IMAGENET, filled(net, name, published(url.rpartition("/")[2])))


def timm_network(name: str, weights: str | None, **settings: Any) -> Frozen:
    """A network of timm's.

    Args:
        settings: of `timm.create_model`, such as `num_classes=0`.

    Raises:
        ValueError: the name is unknown, there are no published weights, or the file is not of this network.
    """
    import timm  # seconds to import

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise ValueError(f"timm has no network {name!r}.{nearest(name, known)}")
    net = alone(lambda: timm.create_model(name, pretrained=False, **settings))
    about = net.pretrained_cfg
    norm = about["mean"], about["std"]
    if weights == RANDOM:
        return Frozen(net, norm, {"net": name, "weights": RANDOM})
    if weights is not None:
        return Frozen(net, norm, filled(net, name, Path(weights).expanduser()))
    repo = about.get("hf_hub_id")
    if not repo:
        raise ValueError(f"timm has no published weights of {name!r}; give a file as `weights`")
    path, commit = hub.fetch(repo, file="model.safetensors")  # never the pickle beside it
    return Frozen(net, norm, {**filled(net, name, path), "hub": f"{repo}@{commit}"})
