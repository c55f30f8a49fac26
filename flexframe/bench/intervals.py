"""Intervals of numbers: bootstrap over images for means, disjoint subsets of the images for Fréchet distances.

All at one level, 95 percent, each for itself: with many comparisons, about one in twenty that is told apart is so by
chance. What varies here is which images were drawn. How a model came out of its training is not in these intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
DRAWS = 2000
FEWEST = 8
"""Images, and no fewer: of fewer, resampling says next to nothing."""
FEWEST_SUBSETS = 3

Better = Literal["higher", "lower"]
Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Interval:
    """Ends of an interval at `LEVEL`."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A first number less a second one on the same images, and what follows for the first."""

    difference: float
    low: float
    high: float
    verdict: Verdict


def resampled_means(
    values: Float[np.ndarray, "n m"], *, draws: int = DRAWS, seed: int = 0
) -> Float[np.ndarray, "draws m"]:
    """Means of every column over images drawn with replacement; a draw takes the same images in all columns.

    Raises:
        ValueError: fewer than `FEWEST` images, or a value that is no finite number.
    """
    count = len(values)
    if count < FEWEST:
        raise ValueError(f"{count} images are too few to resample; an interval needs {FEWEST} at least")
    if not np.isfinite(values).all():
        raise ValueError("a value of an image is not a finite number, so the mean has no interval")
    rng, means = np.random.default_rng(seed), []
    chunk = max(1, 4_000_000 // count)
    centre = values.mean(0)  # resampling what is left of it keeps digits where all values are near one another
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        drawn = rng.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(times @ (values - centre) / count + centre)
    return np.concatenate(means)


def ends(samples: Float[np.ndarray, " draws"], level: float = LEVEL) -> Interval:
    """The percentile interval of resampled values."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def compare(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    first_drawn: Float[np.ndarray, " draws"],
    second_drawn: Float[np.ndarray, " draws"],
    better: Better,
) -> Comparison:
    """Two means over the same images, by the paired bootstrap: both columns of one `resampled_means`."""
    span = ends(first_drawn - second_drawn)
    difference = float(np.mean(first) - np.mean(second))
    return Comparison(difference, span.low, span.high, verdict(span, better))


def subset_interval(value: float, subsets: Sequence[float], level: float = LEVEL) -> Interval:
    """An interval about a distance over all images, from its values on `k` disjoint subsets of them.

    A distance between few images is too high, so the subsets' mean is not that of all; their spread is what is taken:
    value ± t(k - 1) * standard deviation / sqrt(k).

    Raises:
        ValueError: fewer than `FEWEST_SUBSETS` subsets.
    """
    count = len(subsets)
    if count < FEWEST_SUBSETS:
        raise ValueError(f"{count} subsets tell no spread; an interval needs {FEWEST_SUBSETS} at least")
    half = student_t(count - 1, level) * float(np.std(subsets, ddof=1)) / count**0.5
    return Interval(value - half, value + half)


def compare_subsets(
    first: float, second: float, first_subsets: Sequence[float], second_subsets: Sequence[float], better: Better
) -> Comparison:
    """Two distances over the same images, by their differences on the same disjoint subsets, in which biases cancel."""
    apart = [a - b for a, b in zip(first_subsets, second_subsets, strict=True)]
    span = subset_interval(first - second, apart)
    return Comparison(first - second, span.low, span.high, verdict(span, better))


def verdict(difference: Interval, better: Better) -> Verdict:
    """The verdict of an interval of a difference; an end on zero is not apart from it."""
    if difference.low <= 0 <= difference.high:
        return "not distinguishable"
    return "better" if (difference.low > 0) == (better == "higher") else "worse"


def student_t(freedom: int, level: float) -> float:
    """The t such that a Student t variable lies in [-t, t] with probability `level`."""
    # with t = sqrt(freedom) tan(angle) the density is cos(angle)^(freedom - 1), so the integral is short and smooth
    angle = np.linspace(0, np.pi / 2, 100_001)
    height = np.cos(angle) ** (freedom - 1)
    mass = np.concatenate([[0.0], np.cumsum((height[1:] + height[:-1]) / 2)])
    return float(freedom**0.5 * np.tan(np.interp(level * mass[-1], mass, angle)))
