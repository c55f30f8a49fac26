"""Diffusion with a learned variance (Ho et al., arXiv 2006.11239; Nichol and Dhariwal, arXiv 2102.09672).

Linear betas, the noise is predicted; tables are computed in float64 and used in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import TIMES, DDPMSampling

BETAS = (1e-4, 2e-2)
"""The first and the last step's variance."""


def taken(sampling: DDPMSampling) -> list[int]:
    """The steps of the trained diffusion that sampling goes through, rising."""
    if sampling.spacing == "stride":
        stride = next(n for n in range(1, TIMES) if len(range(0, TIMES, n)) == sampling.steps)
        return list(range(0, TIMES, stride))
    share, at, steps = (TIMES - 1) / max(sampling.steps - 1, 1), 0.0, list[int]()
    for _ in range(sampling.steps):
        steps.append(round(at))
        at += share
    return steps


def normal_cdf(x: Tensor) -> Tensor:
    """The standard normal's distribution function, by the usual approximation with a hyperbolic tangent."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def binned_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of `x` in [-1, 1] under a Gaussian in bins of 1/127.5, of which the outer two are open."""
    inverse, centred, half = torch.exp(-log_scale), x - mean, 1 / 255
    above, below = normal_cdf(inverse * (centred + half)), normal_cdf(inverse * (centred - half))
    within = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, within).clamp(min=1e-12).log()


class Diffusion:
    """The process over some of the trained steps, all of them by default. `t` counts these."""

    def __init__(self, steps: Sequence[int] = range(TIMES)) -> None:
        every = torch.linspace(*BETAS, TIMES, dtype=torch.float64, device="cpu")  # wherever the model is built
        cumulative = (1 - every).cumprod(0)
        self.steps = torch.tensor(list(steps), device="cpu")
        bars = cumulative[self.steps]
        before = torch.cat([bars.new_ones(1), bars[:-1]])
        betas = every if len(self.steps) == TIMES else 1 - bars / before
        variance = betas * (1 - before) / (1 - bars)
        # the first step's variance is 0: the second's stands in for it, where there is one
        clipped = torch.cat([variance[1:2] if len(variance) > 1 else betas[:1], variance[1:]])
        self.betas, self.bars = betas, bars
        self.least, self.most = clipped.log(), betas.log()
        self.of_data = betas * before.sqrt() / (1 - bars)
        self.of_state = (1 - before) * (1 - betas).sqrt() / (1 - bars)

    def __len__(self) -> int:
        return len(self.steps)

    @staticmethod
    def at(table: Tensor, t: Int[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
        """A table's values at these steps, a row each."""
        return table.float().to(t.device)[t][:, None, None, None]

    def noised(self, data: Tensor, noise: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Data at step t of the forward process."""
        return self.at(self.bars.sqrt(), t) * data + self.at((1 - self.bars).sqrt(), t) * noise

    def data(self, x: Tensor, noise: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """The data that this noise makes of `x`."""
        return self.at((1 / self.bars).sqrt(), t) * x - self.at((1 / self.bars - 1).sqrt(), t) * noise

    def posterior(self, data: Tensor, x: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Mean of the step before, given the data."""
        return self.at(self.of_data, t) * data + self.at(self.of_state, t) * x

    def log_variance(self, share: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Log-variance of a step by its predicted share in [-1, 1], between the least and the most it can be."""
        part = (share + 1) / 2
        return part * self.at(self.most, t) + (1 - part) * self.at(self.least, t)

    def step(self, x: Tensor, noise: Tensor, share: Tensor, t: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the step before, by what a model predicts."""
        return self.posterior(self.data(x, noise, t), x, t), self.log_variance(share, t)

    def bound(self, data: Tensor, x: Tensor, noise: Tensor, share: Tensor, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The step's term of the variational bound, in bits a dimension."""
        mean, log_variance = self.step(x, noise, share, t)
        true, least = self.posterior(data, x, t), self.at(self.least, t)
        apart = (true - mean).square() * torch.exp(-log_variance)
        divergence = 0.5 * (log_variance - least - 1 + torch.exp(least - log_variance) + apart)
        first = -binned_log_likelihood(data, mean, 0.5 * log_variance)
        terms = torch.where((t == 0)[:, None, None, None], first, divergence)
        return terms.flatten(1).mean(1) / math.log(2)
