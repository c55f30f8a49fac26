"""Configs of the optimizers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flexframe_registry import OptimizerConfig
from flexframe_registry.kinds import Betas


class AdamWConfig(OptimizerConfig):
    """AdamW (arXiv 1711.05101), fused where the device has it."""

    type: Literal["adamw"] = "adamw"
    betas: Betas = (0.9, 0.99)
    """Moment decays."""


class AdamConfig(OptimizerConfig):
    """Adam (arXiv 1412.6980), fused where the device has it; its weight decay is added to the gradient."""

    type: Literal["adam"] = "adam"
    betas: Betas = (0.9, 0.99)
    """Moment decays."""


class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum; its weight decay is added to the gradient."""

    type: Literal["sgd"] = "sgd"
    lr: float = Field(1e-2, gt=0)
    """Peak learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum; 0 for none."""
    nesterov: bool = False
    """Nesterov's form of it."""


class LionConfig(OptimizerConfig):
    """Lion (arXiv 2302.06675), as timm has it. Its learning rate is usually a third to a tenth of AdamW's, and its
    weight decay as many times larger."""

    type: Literal["lion"] = "lion"
    packages = {"timm": "'flexframe[lion]'"}
    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    betas: Betas = (0.9, 0.99)
    """Decays of the direction and of the momentum."""


class MuonConfig(OptimizerConfig):
    """Muon (Jordan et al., 2024) for the matrices of linear layers, with updates scaled to AdamW's size (arXiv
    2502.16982), so that AdamW's learning rates fit; AdamW for all else. Both as torch has them."""

    type: Literal["muon"] = "muon"
    whole = True
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Muon's momentum."""
    nesterov: bool = True
    """Nesterov's form of it."""
    betas: Betas = (0.9, 0.99)
    """AdamW's moment decays."""
