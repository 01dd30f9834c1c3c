"""Confidence bounds: exact ones of proportions and differences, and of means."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety.intervals import (
    check_enough,
    difference_interval,
    mean_interval,
    proportion_interval,
)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000, 100_000])
def test_proportion_bounds_are_those_of_the_binomial_test(n: int, confidence: float) -> None:
    for k in sorted({0, 1, n // 10, n // 2, n - n // 10, n - 1, n}):
        low = binomtest(k, n, alternative="greater").proportion_ci(confidence, "exact").low
        high = binomtest(k, n, alternative="less").proportion_ci(confidence, "exact").high
        assert proportion_interval(k, n, confidence) == pytest.approx((low, high), rel=0, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(59, 100), (269, 500), (527, 1000), (5083, 10000)])
def test_fewest_successes_that_certify_one_half(successes: int, n: int) -> None:
    """The known table: .590, .538, .527, .508 must be observed to certify .50."""
    assert proportion_interval(successes, n, 0.95)[0] >= 0.5
    assert proportion_interval(successes - 1, n, 0.95)[0] < 0.5


def test_proportion_interval_has_closed_forms_at_the_ends() -> None:
    assert proportion_interval(0, 10, 0.95) == pytest.approx((0, 1 - 0.05**0.1))
    assert proportion_interval(10, 10, 0.95) == pytest.approx((0.05**0.1, 1))


def test_each_proportion_bound_covers_at_its_confidence() -> None:
    from scipy.stats import binom

    n, p = 40, 0.7
    low, high = np.transpose([proportion_interval(k, n, 0.9) for k in range(n + 1)])
    probability = binom.pmf(np.arange(n + 1), n, p)
    assert probability[low <= p].sum() >= 0.9
    assert probability[high >= p].sum() >= 0.9


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_must_be_a_probability(confidence: float) -> None:
    with pytest.raises(InvalidInputError, match="`confidence` must be within"):
        proportion_interval(1, 2, confidence)


def test_no_samples_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="n=0"):
        proportion_interval(0, 0, 0.95)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_mean_bounds_scale_with_the_range_and_mirror(confidence: float) -> None:
    values = np.random.default_rng(0).random(300) ** 2
    low, high = mean_interval(values, confidence, 0, 1)
    assert 0 < low < values.mean() < high < 1
    scaled = mean_interval(3 * values - 5, confidence, -5, -2)
    assert scaled == pytest.approx((3 * low - 5, 3 * high - 5), abs=1e-7)
    mirrored = mean_interval(1 - values, confidence, 0, 1)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-7)


def test_mean_bounds_narrow_with_n_towards_the_normal_ones() -> None:
    rng = np.random.default_rng(0)
    for n, times in ((100, 1.8), (10_000, 1.5)):
        widths = np.diff([mean_interval(rng.random(n), 0.95, 0, 1) for _ in range(20)])
        normal = 2 * 1.645 * math.sqrt(1 / 12 / n)
        assert normal < np.median(widths) < times * normal


@pytest.mark.parametrize("n", [1, 2, 10, 1000])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_values_of_a_range_are_not_certain(value: float, n: int) -> None:
    low, high = mean_interval(np.full(n, value), 0.95, 0, 1)
    assert low <= value <= high
    assert high - low > 1 / (n + 1)
    if value == 1:
        assert low < proportion_interval(n, n, 0.95)[0] + 1e-9  # never beyond the exact one


def test_means_need_values_within_their_range() -> None:
    with pytest.raises(InvalidInputError, match="at least one value"):
        mean_interval(np.array([]), 0.95, 0, 1)
    for bad in ([1.1], [-0.1], [math.nan]):
        with pytest.raises(InvalidInputError, match="must lie within"):
            mean_interval(np.array(bad), 0.95, 0, 1)


@pytest.mark.parametrize(
    ("floor", "n", "enough"),
    [(0.9, 28, False), (0.9, 29, True), (0.5, 4, False), (0.5, 5, True), (0, 1, True)],
)
def test_enough_samples_are_as_many_as_could_certify(floor: float, n: int, enough: bool) -> None:
    assert (proportion_interval(n, n, 0.95)[0] >= floor) == enough
    if enough:
        check_enough("m", n, floor, 0.95)
    else:
        with pytest.raises(TooFewSamplesError, match=f"m: at least {n + 1} samples .* are {n}"):
            check_enough("m", n, floor, 0.95)


def test_no_number_of_samples_certifies_all() -> None:
    with pytest.raises(TooFewSamplesError, match="no number of samples certifies a floor of 1"):
        check_enough("m", 10**9, 1, 0.95)


def test_a_difference_is_bounded_by_the_exact_bounds_of_both_shares() -> None:
    gained, lost = proportion_interval(12, 100, 0.975), proportion_interval(5, 100, 0.975)
    expected = (gained[0] - lost[1], gained[1] - lost[0])
    assert difference_interval(12, 5, 100, 0.95) == pytest.approx(expected)
