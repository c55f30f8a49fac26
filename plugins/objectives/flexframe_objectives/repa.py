"""Representation alignment: a decoder's features, projected, point where a pretrained teacher's do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Spec

from . import REPAConfig
from .networks import Frozen, resized, timm_network

FEATURES = "repa"
"""The name in a batch of the teacher's features, `b h w d`, that were computed before."""


class Teacher:
    """A frozen vision transformer and the grid of its patches' features."""

    def __init__(self, name: str, weights: str | None) -> None:
        self.name = name
        try:
            # positions are resampled to the grid that is asked for
            self.frozen: Frozen = timm_network(name, weights, num_classes=0, dynamic_img_size=True)
            net: Any = self.frozen.net
            self.prefix, self.patch, self.dim = net.num_prefix_tokens, net.patch_embed.patch_size, net.num_features
        except (TypeError, AttributeError) as error:
            raise ValueError(f"teacher {name!r} is no vision transformer of patches and tokens ({error})") from None

    def features(self, images: Float[Tensor, "b 3 h w"], grid: tuple[int, int]) -> Float[Tensor, "b y x d"]:
        """Features of images in [0, 1], brought to as many patches."""
        return self.seen(images, grid)[1]

    @torch.no_grad()
    def seen(
        self, images: Float[Tensor, "b 3 h w"], grid: tuple[int, int]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b y x d"]]:
        """Its first token, which is the class token where it has one, and its patches' features; see `features`."""
        size = grid[0] * self.patch[0], grid[1] * self.patch[1]
        net: Any = self.frozen.net
        tokens = net.forward_features(self.frozen.normalised(resized(images.float(), size, "bicubic").clamp(0, 1)))
        return tokens[:, 0], rearrange(tokens[:, self.prefix :], "b (y x) d -> b y x d", y=grid[0])


def brought(features: Float[Tensor, "b h w e"], grid: tuple[int, int], mode: str) -> Float[Tensor, "b y x e"]:
    """Features on another grid; untouched on their own."""
    if features.shape[1:3] == grid:
        return features
    return F.interpolate(features.float().movedim(-1, 1), grid, mode=mode, align_corners=False).movedim(1, -1)


class REPA(Objective):
    """One minus the cosine of projection and teacher, averaged over the grid. See `REPAConfig`."""

    config: REPAConfig

    def __init__(self, config: REPAConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.teacher = None if config.teacher is None else Teacher(config.teacher, config.weights)
        dim = config.dim if self.teacher is None else self.teacher.dim
        assert dim is not None  # as the config sees to
        self.project = nn.Sequential(
            nn.Linear(spec.taps[config.tap], config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, config.hidden), nn.SiLU(),
            nn.Linear(config.hidden, dim),
        )  # fmt: skip

    def facts(self) -> Mapping[str, Any]:
        return {} if self.teacher is None else self.teacher.frozen.facts

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        features = outputs.features[self.config.tap]
        wanted = self.targets(batch, (features.shape[1], features.shape[2])).float()
        grid, late = (wanted.shape[1], wanted.shape[2]), self.config.resize == "projection"
        if not late:
            features = brought(features, grid, "bilinear")
        projected = self.project(features.to(self.project[0].weight.dtype)).float()
        if late:
            projected = brought(projected, grid, "bicubic")
        return {"cosine": 1 - F.cosine_similarity(projected, wanted, dim=-1).mean((1, 2))}

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """`repa`, on the config's `grid`; without one they are on the decoder's, and only training knows that.

        Raises:
            ValueError: the config has no `grid`.
        """
        if self.config.grid is None:
            raise ValueError("features to be computed before need a `grid`; set that of repa")
        return {FEATURES: self.targets(batch, self.config.grid)}

    def targets(self, batch: Batch, own: tuple[int, int]) -> Float[Tensor, "b y x d"]:
        """The teacher's features: those that the batch holds, else those of its images, on the grid asked for.

        Raises:
            ValueError: there are neither features nor a teacher, or no images for it.
        """
        grid = self.config.grid
        given = batch.features.get(FEATURES)
        if given is not None:
            if grid is None or given.shape[1:3] == grid:
                return given
            return brought(given, grid, "bilinear")
        if self.teacher is None:
            raise ValueError(
                f"repa has no targets: name its `teacher`, or put features in batch.features[{FEATURES!r}]"
            )
        if batch.images is None:
            raise ValueError(f"teacher {self.teacher.name!r} looks at images, and this batch holds none")
        return self.teacher.features(batch.images, grid or own)
