"""Intervals against scipy, against exact enumeration, and against how often they should hold the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats

from flexframe.bench import intervals
from flexframe.bench.intervals import Interval


@pytest.mark.parametrize("skewed", [False, True])
def test_interval_of_a_mean_is_scipys(skewed: bool) -> None:
    rng = np.random.default_rng(3)
    values = rng.gamma(1.5, 2.0, 200) if skewed else rng.normal(25, 3, 200)
    drawn = intervals.resampled_means(values[:, None], draws=20_000)[:, 0]
    found = intervals.ends(drawn)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng)
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.04 * width)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.04 * width)
    assert drawn.std() == pytest.approx(values.std() / 200**0.5, rel=0.03)


def test_a_difference_of_pairs_is_scipys_and_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 3, 300)
    a, b = 25 + hard + rng.normal(0, 0.5, 300), 24.8 + hard + rng.normal(0, 0.5, 300)
    drawn = intervals.resampled_means(np.stack([a, b], 1), draws=20_000)
    found = intervals.compare(a, b, drawn[:, 0], drawn[:, 1], "higher")
    theirs = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: np.mean(x - y, axis), paired=True, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)
    assert found.verdict == "better"
    assert found.difference == pytest.approx(float(np.mean(a - b)))
    unpaired = intervals.ends(drawn[:, 0])
    assert (unpaired.high - unpaired.low) > 4 * (found.high - found.low)


def test_draws_are_from_all_resamples_alike() -> None:
    # eight values of which one is 1: the number of times it is drawn is binomial
    values = np.zeros((8, 1))
    values[3] = 1
    drawn = intervals.resampled_means(values, draws=40_000)[:, 0] * 8
    share = np.bincount(drawn.round().astype(int), minlength=9) / 40_000
    assert np.allclose(share, scipy.stats.binom.pmf(range(9), 8, 1 / 8), atol=0.01)


def test_chunks_do_not_change_the_kind_of_answer_and_seeds_repeat() -> None:
    values = np.random.default_rng(0).normal(1e6, 1e-3, (5000, 2))
    first, again = (intervals.resampled_means(values, draws=1700) for _ in range(2))
    assert first.shape == (1700, 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, intervals.resampled_means(values, draws=1700, seed=1))
    assert first.std(0) == pytest.approx(values.std(0) / 5000**0.5, rel=0.1)  # far from the rounding of a float


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(7), 0
    for trial in range(300):
        values = rng.normal(0, 1, (60, 1))
        found = intervals.ends(intervals.resampled_means(values, draws=600, seed=trial)[:, 0])
        held += found.low <= 0 <= found.high
    assert 0.90 <= held / 300 <= 0.98


@pytest.mark.parametrize("freedom", [2, 3, 4, 9, 30, 200])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_student_t_is_scipys(freedom: int, level: float) -> None:
    assert intervals.student_t(freedom, level) == pytest.approx(scipy.stats.t.ppf((1 + level) / 2, freedom), rel=1e-5)


def test_subsets_give_the_t_interval_about_the_value_of_all_images() -> None:
    subsets = [31.0, 33.5, 30.2, 32.7, 31.9]
    found = intervals.subset_interval(28.0, subsets)
    theirs = scipy.stats.t.interval(0.95, 4, loc=np.mean(subsets), scale=scipy.stats.sem(subsets))
    assert found.high - found.low == pytest.approx(theirs[1] - theirs[0], rel=1e-5)
    assert (found.low + found.high) / 2 == pytest.approx(28.0)


def test_subsets_are_compared_in_pairs() -> None:
    first, second = [31.0, 33.5, 30.2, 32.7], [32.1, 34.4, 31.3, 33.6]
    found = intervals.compare_subsets(28.0, 29.0, first, second, "lower")
    theirs = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.high - found.low == pytest.approx(theirs.high - theirs.low, rel=1e-5)
    assert found.verdict == "better"
    swapped = intervals.compare_subsets(29.0, 28.0, second, first, "lower")
    assert (swapped.verdict, swapped.low) == ("worse", pytest.approx(-found.high))
    with pytest.raises(ValueError, match="zip"):
        intervals.compare_subsets(28.0, 29.0, first, second[:3], "lower")


def test_verdicts_follow_the_direction_and_zero() -> None:
    for low, high, better in product((-1.0, 0.0, 1.0), (0.0, 1.0, 2.0), ("higher", "lower")):
        if low > high:
            continue
        told = intervals.verdict(Interval(low, high), better)
        assert told == ("not distinguishable" if low <= 0 else {"higher": "better", "lower": "worse"}[better])
    assert intervals.verdict(Interval(-2.0, -1.0), "lower") == "better"
    assert intervals.verdict(Interval(-2.0, -1.0), "higher") == "worse"


def test_too_few_and_broken_values_are_refused() -> None:
    with pytest.raises(ValueError, match="7 images are too few"):
        intervals.resampled_means(np.zeros((7, 1)))
    with pytest.raises(ValueError, match="not a finite number"):
        intervals.resampled_means(np.full((9, 1), np.nan))
    with pytest.raises(ValueError, match="2 subsets tell no spread"):
        intervals.subset_interval(1.0, [1.0, 2.0])
