"""Rectified flow (Liu et al., arXiv 2209.03003): x_t = t noise + (1 - t) data, velocity noise - data, t from 1 to 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from flexframe.parts import OnStep
from flexframe.rng import Rng

from . import FlowSampling

Velocity = Callable[[Tensor, float], Tensor]
Guided = Callable[[Tensor, Tensor, float], Tensor]


def mode_times(u: Float[Tensor, " b"], scale: float) -> Float[Tensor, " b"]:
    """Times by mode sampling: uniform for scale 0, heavier in the middle above (arXiv 2403.03206, section 3.1)."""
    return 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)


def logit_normal_times(z: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Times whose logit is standard normal."""
    return torch.sigmoid(z)


def draw_times(sampling: str, mode_scale: float, rng: Rng) -> Float[Tensor, " b"]:
    """One training time a sample, by the name of its distribution."""
    draws = {
        "mode": lambda: mode_times(rng.uniform("decoder/time"), mode_scale),
        "logit-normal": lambda: logit_normal_times(rng.normal("decoder/time")),
    }
    return draws[sampling]()


class Guidance:
    """Joins conditional and unconditional velocities; one object a sample call, for APG keeps a running direction."""

    def __init__(self, sampling: FlowSampling) -> None:
        self.sampling = sampling
        self.direction: Tensor | None = None

    def __call__(
        self, conditional: Float[Tensor, "b c h w"], unconditional: Float[Tensor, "b c h w"], scale: float
    ) -> Float[Tensor, "b c h w"]:
        if not self.sampling.apg:
            return unconditional + scale * (conditional - unconditional)
        return self._projected(conditional, conditional - unconditional, scale)

    def _projected(self, conditional: Tensor, difference: Tensor, scale: float) -> Tensor:
        """Adaptive projected guidance (Sadat et al., arXiv 2410.02416), norms over a whole latent."""
        settings, dims = self.sampling, (1, 2, 3)
        if self.direction is not None:
            difference = difference + settings.apg_momentum * self.direction
        self.direction = difference
        norm = difference.norm(p=2, dim=dims, keepdim=True)
        # a zero direction has norm 0: 2.5 / 0 is inf, and the minimum is 1
        limited = (difference * torch.clamp(settings.apg_threshold / norm, max=1)).double()
        unit = torch.nn.functional.normalize(conditional.double(), dim=dims)
        parallel = (limited * unit).sum(dims, keepdim=True) * unit
        orthogonal = limited - parallel
        return conditional + (scale - 1) * (orthogonal + settings.apg_eta * parallel).to(conditional.dtype)


def integrate(
    velocity: Velocity, noise: Float[Tensor, "b c h w"], sampling: FlowSampling, on_step: OnStep | None = None
) -> Float[Tensor, "b c h w"]:
    """Integrate from t=1 to t=0 with the solver of the settings; the state stays fp32.

    The model is evaluated at `sampling.times()`: never at 0, where nothing was trained. With APG each evaluation moves
    the running direction.
    """
    x, steps = noise, sampling.steps
    for i in range(steps, 0, -1):
        first = velocity(x, i / steps).float()
        if sampling.solver == "midpoint":
            slope = velocity(x - first / (2 * steps), (i - 0.5) / steps).float()
        elif sampling.solver == "heun" and i > 1:
            slope = (first + velocity(x - first / steps, (i - 1) / steps).float()) / 2
        else:
            slope = first
        x = x - slope / steps
        if on_step is not None:
            on_step(steps - i + 1, steps)
    return x
