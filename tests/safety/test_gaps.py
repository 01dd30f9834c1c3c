"""Gaps between rates: their bounds are counted over all samples, and never narrower than that."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety.gaps import UNDEFINED, check_wide_enough, difference_bounds, gap, worst

RATES = np.array([0.001, 0.01, 0.05, 0.2, 0.43, 0.57, 0.8, 0.95, 0.99, 0.999])


def all_bounds(n: int, m: int, confidence: float) -> np.ndarray:
    """The upper bound [n + 1, m + 1] of the difference for all counts of two groups."""
    counts = np.concatenate([np.arange(n + 1.0), np.arange(m + 1.0)])
    sizes = np.concatenate([np.full(n + 1, float(n)), np.full(m + 1, float(m))])
    return difference_bounds(counts, sizes, confidence)[: n + 1, n + 1 :]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99, 0.999])
@pytest.mark.parametrize(("n", "m"), [(20, 20), (20, 300), (300, 20), (60, 100)])
def test_the_bound_of_a_difference_is_wrong_as_often_as_declared(
    n: int, m: int, confidence: float
) -> None:
    """Exact: every pair of counts, weighed by its probability, for every pair of rates."""
    high = all_bounds(n, m, confidence)
    first = binom.pmf(np.arange(n + 1)[:, None], n, RATES)
    second = binom.pmf(np.arange(m + 1)[:, None], m, RATES)
    for i, p in enumerate(RATES):
        for j, q in enumerate(RATES):
            wrong = first[:, i] @ (high < p - q - 1e-12) @ second[:, j]
            assert wrong <= 1 - confidence, (p, q)


def test_in_large_samples_it_is_the_normal_bound() -> None:
    n = np.array([4000.0, 9000.0])
    bound = difference_bounds(n * [0.3, 0.25], n, 0.95)[0, 1]
    normal = 0.05 + norm.ppf(0.95) * np.sqrt(0.3 * 0.7 / 4000 + 0.25 * 0.75 / 9000)
    assert bound == pytest.approx(normal, abs=4e-4)


def test_the_bound_of_the_largest_of_many_gaps_needs_no_correction() -> None:
    """Six groups of one rate, but for one: wrong as often as the bound of a single pair."""
    rng = np.random.default_rng(0)
    rates, n = np.array([0.3, 0.3, 0.3, 0.3, 0.3, 0.42]), np.full(6, 80)
    draws = [gap("abcdef", rng.binomial(n, rates), n, 0.9) for _ in range(1500)]
    low, high = np.transpose([each.interval for each in draws])
    assert (high < 0.12).mean() <= 0.1
    assert (low > 0.12).mean() <= 0.1 + 2 * 0.008


def test_a_lower_bound_that_ignored_the_number_of_pairs_would_be_wrong() -> None:
    rng = np.random.default_rng(1)
    n = np.full(6, 80)
    draws = [rng.binomial(n, 0.3) for _ in range(1500)]
    naive = [-difference_bounds(k.astype(float), n.astype(float), 0.9).min() > 0 for k in draws]
    ours = [gap("abcdef", k, n, 0.9).interval[0] > 0 for k in draws]
    assert np.mean(naive) > 0.3
    assert np.mean(ours) <= 0.1


def test_what_is_named_is_the_pair_that_lies_farthest_apart() -> None:
    found = gap(["a", "b", "c"], np.array([5, 30, 20]), np.array([50, 50, 50]), 0.95)
    assert (found.value, found.between, found.n) == (pytest.approx(0.5), ("b", "a"), 150)
    assert found.interval[0] < 0.5 < found.interval[1]


def test_groups_without_samples_do_not_decide() -> None:
    found = gap(["a", "b", "c"], np.array([10, 0, 12]), np.array([50, 0, 50]), 0.95)
    assert found.value == pytest.approx(0.04)
    assert found.between == ("c", "a")
    assert not gap(["a", "b"], np.array([10, 0]), np.array([50, 0]), 0.95).defined


def test_equal_rates_have_no_gap_but_a_bound() -> None:
    found = gap(["a", "b"], np.array([0, 0]), np.array([59, 59]), 0.95)
    assert found.value == 0
    assert found.interval == (0, pytest.approx(1 - 0.05 ** (1 / 59)))


def test_of_several_gaps_the_worst_counts_and_undefined_ones_do_not() -> None:
    small = gap(["a", "b"], np.array([10, 11]), np.array([50, 50]), 0.95)
    large = gap(["a", "b"], np.array([100, 110]), np.array([200, 200]), 0.95)
    both = worst([UNDEFINED, small, large])
    assert both.value == large.value
    assert both.interval[1] == max(small.interval[1], large.interval[1])
    assert not worst([UNDEFINED]).defined


@pytest.mark.parametrize("confidence", [0.5, 1, 95])
def test_confidence_must_be_above_one_half(confidence: float) -> None:
    with pytest.raises(InvalidInputError, match="`confidence` must be within"):
        gap(["a", "b"], np.array([1, 1]), np.array([5, 5]), confidence)


def test_a_bound_narrower_than_the_half_width_is_refused_with_what_is_needed() -> None:
    n = np.array([133, 700])
    options = {"confidence": 0.95, "rate": 0.9, "of": "positives"}
    check_wide_enough("odds", "ab", n, at_most=0.06, **options)
    with pytest.raises(
        TooFewSamplesError, match=r"133 positives of 'a'; about 1\d\d of it"
    ) as told:
        check_wide_enough("odds", "ab", n, at_most=0.05, **options)
    factor = float(str(told.value).split("and ")[-1].split(" times")[0])
    check_wide_enough("odds", "ab", np.ceil(n * factor), at_most=0.05, **options)
    with pytest.raises(TooFewSamplesError, match="no number of samples"):
        check_wide_enough("odds", "ab", n, at_most=0.0, **options)
