"""Diffusion with a learned variance (Ho et al., arXiv 2006.11239; Nichol and Dhariwal, arXiv 2102.09672).

The noise is predicted; tables are computed in float64 and used in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

TIMES = 1000
"""Steps of the diffusions that are trained."""


def linear_betas() -> Float[Tensor, " t"]:
    """Variances of the steps, rising evenly (arXiv 2006.11239)."""
    return torch.linspace(1e-4, 2e-2, TIMES, dtype=torch.float64, device="cpu")  # wherever the model is built


def cosine_betas() -> Float[Tensor, " t"]:
    """Variances of the steps, by a squared cosine of what remains (arXiv 2102.09672)."""
    at = torch.arange(TIMES + 1, dtype=torch.float64, device="cpu") / TIMES
    left = ((at + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - left[1:] / left[:-1]).clamp(max=0.999)


def evenly(count: int) -> list[int]:
    """So many of the trained steps, from the first to the last, rounded."""
    share, at, steps = (TIMES - 1) / max(count - 1, 1), 0.0, list[int]()
    for _ in range(count):
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
    """The process over some of the trained steps, all of them by default. `t` counts these, one a row.

    Args:
        every: variances of the trained steps.
        steps: those that are taken, rising.
    """

    def __init__(self, every: Float[Tensor, " t"], steps: Sequence[int] = range(TIMES)) -> None:
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
    def at(table: Tensor, t: Int[Tensor, " b"], like: Tensor) -> Tensor:
        """A table's values at these steps, a row each, with as many axes as `like` has."""
        return table.float().to(t.device)[t].reshape(-1, *(1,) * (like.ndim - 1))

    def noised(self, data: Tensor, noise: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Data at step t of the forward process."""
        return self.at(self.bars.sqrt(), t, data) * data + self.at((1 - self.bars).sqrt(), t, data) * noise

    def data(self, x: Tensor, noise: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """The data that this noise makes of `x`."""
        return self.at((1 / self.bars).sqrt(), t, x) * x - self.at((1 / self.bars - 1).sqrt(), t, x) * noise

    def posterior(self, data: Tensor, x: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Mean of the step before, given the data."""
        return self.at(self.of_data, t, x) * data + self.at(self.of_state, t, x) * x

    def log_variance(self, share: Tensor, t: Int[Tensor, " b"]) -> Tensor:
        """Log-variance of a step by its predicted share in [-1, 1], between the least and the most it can be."""
        part = (share + 1) / 2
        return part * self.at(self.most, t, share) + (1 - part) * self.at(self.least, t, share)

    def step(self, x: Tensor, noise: Tensor, share: Tensor, t: Int[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the step before, by what a model predicts."""
        return self.posterior(self.data(x, noise, t), x, t), self.log_variance(share, t)

    def bound(self, data: Tensor, x: Tensor, noise: Tensor, share: Tensor, t: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The step's term of the variational bound, in bits a dimension."""
        mean, log_variance = self.step(x, noise, share, t)
        true, least = self.posterior(data, x, t), self.at(self.least, t, x)
        apart = (true - mean).square() * torch.exp(-log_variance)
        divergence = 0.5 * (log_variance - least - 1 + torch.exp(least - log_variance) + apart)
        first = -binned_log_likelihood(data, mean, 0.5 * log_variance)
        terms = torch.where((t == 0).reshape(-1, *(1,) * (x.ndim - 1)), first, divergence)
        return terms.flatten(1).mean(1) / math.log(2)
