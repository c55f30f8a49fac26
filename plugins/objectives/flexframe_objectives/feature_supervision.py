"""Supervision of features: what an encoder and a decoder have inside points where a teacher's features do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from flexframe.parts import Objective
from flexframe.rng import Rng
from flexframe.tokens import Batch, Losses, Outputs
from flexframe_registry import Spec

from . import FeatureSupervisionConfig
from .repa import Teacher, brought

WHOLE, CELLS = "supervision_whole", "supervision_cells"
"""Names in a batch of the teacher's features of the whole image, `b d`, and of its cells, `b h w d`, made before."""


class FeatureSupervision(Objective):
    """Losses `whole` and `cells`. See `FeatureSupervisionConfig`."""

    config: FeatureSupervisionConfig

    def __init__(self, config: FeatureSupervisionConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.teacher = None if config.teacher is None else Teacher(config.teacher, config.weights)
        dim = config.dim if self.teacher is None else self.teacher.dim
        assert dim is not None  # as the config sees to
        taps = {"whole": config.whole, "cells": config.cells}
        for name, tap in taps.items():
            setattr(self, name, None if tap is None else nn.Linear(spec.taps[tap], dim, bias=False))

    def facts(self) -> Mapping[str, Any]:
        return {} if self.teacher is None else self.teacher.frozen.facts

    def forward(self, outputs: Outputs, batch: Batch, *, step: int, rng: Rng) -> Losses:
        config, losses = self.config, dict[str, Tensor]()
        own = None if config.cells is None else outputs.features[config.cells]
        grid = config.grid or ((1, 1) if own is None else (own.shape[1], own.shape[2]))
        wanted = self.targets(batch, grid)
        if config.whole is not None:
            told = self.projected("whole", outputs.features[config.whole]).mean((1, 2))
            losses["whole"] = self.short(told, wanted[WHOLE])
        if own is not None:
            target = wanted[CELLS]
            told = brought(self.projected("cells", own), (target.shape[1], target.shape[2]), "bilinear")
            losses["cells"] = self.short(told, target).mean((1, 2))
        return losses

    def projected(self, name: str, features: Float[Tensor, "b h w e"]) -> Float[Tensor, "b h w d"]:
        """Features in the teacher's width."""
        linear: nn.Linear = getattr(self, name)
        projected: Tensor = linear(features.to(linear.weight.dtype))
        return projected.float()

    def short(self, told: Float[Tensor, "*b d"], wanted: Float[Tensor, "*b d"]) -> Float[Tensor, "*b"]:
        """The amount by which a cosine falls short of one less the margin."""
        return F.relu(1 - self.config.margin - F.cosine_similarity(told, wanted.float(), dim=-1))

    def features(self, batch: Batch) -> Mapping[str, Tensor]:
        """The teacher's features on the config's `grid`; without one it is the tap's, and only training knows that.

        Raises:
            ValueError: the config has no `grid`.
        """
        if self.config.grid is None:
            raise ValueError("features to be computed before need a `grid`; set that of feature-supervision")
        return self.targets(batch, self.config.grid)

    def targets(self, batch: Batch, grid: tuple[int, int]) -> dict[str, Tensor]:
        """The teacher's features by name: those that the batch holds, else those of its images.

        Raises:
            ValueError: there are neither features nor a teacher, or no images for it.
        """
        names = [WHOLE] * (self.config.whole is not None) + [CELLS] * (self.config.cells is not None)
        if batch.features.keys() >= set(names):
            return {name: batch.features[name] for name in names}
        if self.teacher is None:
            text = " and ".join(f"batch.features[{name!r}]" for name in names)
            raise ValueError(f"feature-supervision has no targets: name its `teacher`, or put features in {text}")
        if batch.images is None:
            raise ValueError(f"teacher {self.teacher.name!r} looks at images, and this batch holds none")
        whole, cells = self.teacher.seen(batch.images, grid)
        return {name: value for name, value in ((WHOLE, whole), (CELLS, cells)) if name in names}
