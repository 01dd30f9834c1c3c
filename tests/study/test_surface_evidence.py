"""Which surfaces explain the trials: against the formulas written out."""

import numpy as np

from rlhf_tune.study.evidence import (
    _First,
    _whitened,
    best_scales,
    evidence,
    largest,
    log_sum,
    resembling,
)
from rlhf_tune.study.prior import Places, shipped
from rlhf_tune.study.process import OFFSET, Points, Seen, correlations

RNG = np.random.default_rng(0)


def points(n: int) -> Points:
    decades = RNG.uniform((-5, 1), (0, 2.5), size=(n, 2))
    return Points(Places.at(decades), decades, decades[:, :0])


def test_the_best_scale_is_where_the_evidence_is_largest() -> None:
    values, surfaces = RNG.normal(size=6), RNG.normal(size=(6, 8))
    both, squares = values @ surfaces, (surfaces**2).sum(axis=0)
    best = best_scales(6, values @ values, both, squares)
    scales = np.geomspace(1e-2, 1e2, 4001)
    found = evidence(6, values @ values, both, squares, scales[:, None])
    np.testing.assert_allclose(best, scales[found.argmax(axis=0)], rtol=3e-3)


def test_surfaces_are_whitened_by_the_covariance_of_the_first_points() -> None:
    prior, first = shipped("performance"), points(9)
    learned, generic = correlations(Seen(prior, first), Seen(prior, first))
    variance = np.exp(np.log(prior.generic).mean())
    covariance = learned + variance * generic + OFFSET + prior.noise * np.eye(9)
    lower, surfaces = _whitened(_First.of(prior, first))
    np.testing.assert_allclose(lower, np.linalg.cholesky(covariance), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(lower @ surfaces, prior.means_at(first.places), rtol=1e-6, atol=1e-6)


def test_what_was_looked_up_before_does_not_change_a_bit() -> None:
    prior, first = shipped("performance"), points(12)
    values = RNG.normal(size=12)
    scales = np.geomspace(0.5, 64, 11)

    def asked() -> tuple[bytes, float]:
        found, share = resembling(Seen(prior, first), values, scales)
        return found.tobytes(), share

    _whitened.cache_clear()
    at_once = asked()
    _whitened.cache_clear()
    for trials in range(2, 12):
        resembling(Seen(prior, first[:trials]), values[:trials], scales)
    assert asked() == at_once


def test_another_prior_at_the_same_points_is_another_question() -> None:
    first = points(3)
    own = _First.of(shipped("performance"), first)
    assert own != _First.of(shipped("robustness"), first)
    assert own == _First.of(shipped("performance"), first)


def test_the_largest_come_first() -> None:
    assert largest(np.array([1.0, 5.0, 3.0]), 2).tolist() == [1, 2]
    assert largest(np.array([1.0, 5.0]), 7).tolist() == [1, 0]


def test_sums_of_huge_logarithms() -> None:
    np.testing.assert_allclose(log_sum(np.array([-1e4, -1e4])), np.log(2) - 1e4)
