"""Confidence bounds: exact ones of proportions and differences, and those of the bootstrap."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.intervals import (
    bootstrap_interval,
    difference_interval,
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


def test_bootstrap_bounds_agree_with_the_normal_ones_and_repeat() -> None:
    sample = np.random.default_rng(0).normal(5, 2, 2000)
    low, high = bootstrap_interval([sample], np.mean, 0.95)
    error = 1.645 * sample.std() / math.sqrt(len(sample))
    assert (low, high) == pytest.approx((sample.mean() - error, sample.mean() + error), abs=0.01)
    assert (low, high) == bootstrap_interval([sample], np.mean, 0.95)


def test_a_difference_is_bounded_by_the_exact_bounds_of_both_shares() -> None:
    gained, lost = proportion_interval(12, 100, 0.975), proportion_interval(5, 100, 0.975)
    expected = (gained[0] - lost[1], gained[1] - lost[0])
    assert difference_interval(12, 5, 100, 0.95) == pytest.approx(expected)
