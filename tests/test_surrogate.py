"""The Gaussian process against scikit-learn's, and its sanity with little data."""

import numpy as np
import pytest

from rlhf_tune.surrogate import MAX_TRIALS, fit

RNG = np.random.default_rng(0)


def test_equals_scikit_learn_at_the_same_hyperparameters() -> None:
    gp = pytest.importorskip("sklearn.gaussian_process")
    x, y = RNG.uniform(-2, 2, (15, 2)), RNG.normal(size=15)
    queries = RNG.uniform(-2, 2, (7, 2))
    ours = fit(x, y, center=0.3, scale=2.0)
    matches = []
    for length in (0.5, 1.0, 2.0):
        for noise in (1e-4, 1e-2, 1e-1):
            theirs = gp.GaussianProcessRegressor(
                gp.kernels.Matern(length, nu=2.5), alpha=noise, optimizer=None
            ).fit(x, (y - 0.3) / 2)
            mean, deviation = theirs.predict(queries, return_std=True)
            predicted = ours.predict(queries)
            matches.append(
                np.allclose(predicted.mean, 0.3 + 2 * mean)
                and np.allclose(predicted.deviation, 2 * deviation)
            )
    assert sum(matches) == 1


def test_far_from_all_data_the_prior_returns() -> None:
    predicted = fit(np.zeros((1, 1)), np.array([5.0]), center=1.0, scale=2.0).predict(
        np.array([[0.0], [100.0]])
    )
    assert predicted.mean[1] == pytest.approx(1.0)
    assert predicted.deviation[1] == pytest.approx(2.0)
    assert predicted.mean[0] > 4.5
    assert predicted.deviation[0] < 0.7


def test_noise_is_found_in_repeated_measurements() -> None:
    x = np.zeros((12, 1))
    noisy = fit(x, RNG.normal(size=12), center=0.0, scale=1.0).predict(x[:1])
    exact = fit(x, np.full(12, 0.5), center=0.0, scale=1.0).predict(x[:1])
    assert abs(noisy.mean[0]) < 0.8
    assert noisy.deviation[0] > exact.deviation[0]


def test_only_the_last_trials_count() -> None:
    x, y = RNG.uniform(size=(MAX_TRIALS + 5, 1)), RNG.normal(size=MAX_TRIALS + 5)
    queries = RNG.uniform(size=(4, 1))
    every = fit(x, y, center=0.0, scale=1.0).predict(queries)
    last = fit(x[5:], y[5:], center=0.0, scale=1.0).predict(queries)
    np.testing.assert_array_equal(every.mean, last.mean)
