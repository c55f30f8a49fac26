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
    """Integrate from t=1 to t=0 with the solver and the steps of the settings; the state stays fp32.

    The model is evaluated at `sampling.times()`: never at 0, where nothing was trained. With APG each evaluation moves
    the running direction.
    """
    x, knots, paces, before = noise, sampling.knots(), sampling.paces(), None
    for i, (t, end, pace) in enumerate(zip(knots[:-1], knots[1:], paces, strict=True)):
        slope = first = velocity(x, t).float()
        if sampling.solver == "midpoint":
            slope = velocity(x - first / (2 * pace), (t + end) / 2).float()
        elif sampling.solver == "heun" and end:
            slope = (first + velocity(x - first / pace, end).float()) / 2
        elif sampling.solver == "ab2" and before is not None:
            slope = first + (first - before) * (paces[i - 1] / (2 * pace))
        elif sampling.solver == "dpmpp-2m":
            data = x - t * first
            if before is not None and i > 1 and end:
                slope = first - (data - before) * (dpmpp_weight(knots[i - 1], t, end) / t)
            first = data
        x, before = x - slope / pace, first
        if on_step is not None:
            on_step(i + 1, sampling.steps)
    return x


def dpmpp_weight(last: float, t: float, end: float) -> float:
    """Weight by which DPM-Solver++(2M) carries on the change of the predicted data (arXiv 2211.01095, algorithm 2).

    Half the step over the one before, both in the logarithm of signal to noise, (1 - t) / t. That is infinite at t=1
    and t=0, so the first two steps, and the last, are of first order, which is Euler's step.
    """
    log_ratios = [math.log((1 - time) / time) for time in (last, t, end)]
    return (log_ratios[2] - log_ratios[1]) / (2 * (log_ratios[1] - log_ratios[0]))
