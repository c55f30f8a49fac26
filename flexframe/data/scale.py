"""The scale of continuous tokens: what a generator takes off them before its prior sees them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from flexframe_registry import ConfigError, GeneratorConfig

Numbers = tuple[float, ...]
"""A number for each value of a token."""
DIGITS = 6
"""Significant digits that are kept: what a sum's order moves is beyond them."""
LITTLE = 0.01
"""Share of the variance of tokens between images, below which there is little to learn."""
FAR = 2.0
"""How many times larger or smaller than 1 scaled tokens may be, as a whole, before a scale is another's."""


class Scale:
    """The scale of continuous tokens by value, gathered batch by batch in double precision."""

    def __init__(self, dim: int) -> None:
        self.count, self.sum, self.squares = 0, np.zeros(dim), np.zeros(dim)

    def add(self, tokens: Float[np.ndarray, "n d"]) -> None:
        """Take more tokens in."""
        values = tokens.astype(np.float64)
        self.count += len(values)
        self.sum += values.sum(0)
        self.squares += (values**2).sum(0)

    @property
    def mean(self) -> Numbers:
        """Mean of each value."""
        return _rounded(self.sum / self.count)

    @property
    def deviation(self) -> Numbers:
        """Deviation of each value; 1 for one that never varies, which nothing can be divided by."""
        mean, squares = self.sum / self.count, self.squares / self.count
        variance = squares - mean**2
        return _rounded(np.where(variance > 1e-12 * squares, np.sqrt(variance.clip(0)), 1.0))


def hardly_vary(tokens: Float[np.ndarray, "n k d"], place: str) -> list[str]:
    """A sentence where tokens of n images differ by slot and hardly by image, as where their decoder ignores them."""
    if len(tokens) < 2:
        return []
    values = tokens.astype(np.float64)
    whole, own = float(values.var((0, 1)).sum()), float(values.var(0).mean(0).sum())
    share = own / whole if whole else 0.0
    if share >= LITTLE:
        return []
    told = f"{place}: tokens hardly vary from image to image ({share:.2%} of their variance, the rest is between slots)"
    return [f"{told}; a prior has next to nothing to learn of them: see that their decoder uses them (flexframe bench)"]


def scaled(config: GeneratorConfig, mean: Numbers, deviation: Numbers, place: str) -> GeneratorConfig:
    """A generator's config with the scale of its tokens, `mean` and `deviation` as they were measured at `place`; one
    that has a scale keeps it.

    Raises:
        ConfigError: it has one, by which these tokens are far from mean 0 and deviation 1.
    """
    if config.mean is None or config.deviation is None:
        return config.model_copy(update={"mean": mean, "deviation": deviation})
    off, size = np.array(mean) - np.array(config.mean), np.array(config.deviation)
    whole = float(np.sqrt(((off**2 + np.array(deviation) ** 2) / size**2).mean()))
    if not 1 / FAR <= whole <= FAR:
        text = f"and deviation are of other tokens: scaled by them, those of {place} have a root mean square of"
        raise ConfigError.at("model.mean", f"{text} {whole:.3g}, not about 1; leave both out to have them measured")
    return config


def _rounded(numbers: Float[np.ndarray, " d"]) -> Numbers:
    return tuple(float(f"{number:.{DIGITS}g}") for number in numbers)
