"""Bounds that decide are wrong no more often than they say."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks import intervals
from rlhf_tune.safety.leakage import tail_interval

REPEATS = 400


@pytest.mark.parametrize("name", sorted(intervals.kinds()))
@pytest.mark.parametrize("n", [20, 60, 250])
def test_no_bound_is_wrong_more_often_than_declared(name: str, n: int) -> None:
    low, high, _ = intervals.errors(intervals.kinds()[name], n, 0.9, REPEATS)
    assert max(low, high) <= intervals.allowed(0.9, REPEATS)


def test_a_bound_that_is_too_narrow_would_be_found() -> None:
    def normal(rng: np.random.Generator, n: int, _: float) -> tuple[float, float]:
        values = rng.lognormal(size=n)
        reach = 1.28 * float(values.std()) / math.sqrt(n)
        return float(values.mean()) - reach, float(values.mean()) + reach

    low, high, _ = intervals.errors(intervals.Kind(math.exp(0.5), normal), 20, 0.9, REPEATS)
    assert low < intervals.allowed(0.9, REPEATS) < high


@pytest.mark.parametrize(("members", "n"), [(20, 60), (100, 60), (500, 200)])
def test_tied_scores_do_not_make_bounds_of_leakage_wrong(members: int, n: int) -> None:
    """Scores of 0 to 9, of which one member in 200 has 0: the 1 % quantile is 1."""
    chances = np.array([0.005, *[0.995 / 9] * 9])

    def tied(rng: np.random.Generator, n: int, confidence: float) -> tuple[float, float]:
        scores = rng.choice(10.0 * np.arange(10), size=members, p=chances)
        return tail_interval(scores, 10.0 * rng.integers(0, 10, n), confidence)

    low, high, _ = intervals.errors(intervals.Kind(0.1, tied), n, 0.9, REPEATS)
    assert max(low, high) <= intervals.allowed(0.9, REPEATS)


def test_where_no_bound_is_given_none_is_wrong() -> None:
    low, high, width = intervals.errors(intervals.Kind(0, lambda *_: None), 20, 0.9, 5)
    assert (low, high) == (0, 0)
    assert math.isnan(width)


def test_errors_of_proportions_are_exact() -> None:
    """Of 20, 15 or fewer are too few for .9 at 90 %, and 20 of 20 do not show that it is more."""
    low, high, _ = intervals.errors(intervals.kinds()["proportion, 0.9"], 20, 0.9, 1)
    assert low == 0
    assert high == pytest.approx(binom.cdf(15, 20, 0.9))
