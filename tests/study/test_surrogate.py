"""The Gaussian process against scikit-learn's, its invariances, and its sanity with little data."""

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from rlhf_tune.pretraining.priors import Recorded, listed
from rlhf_tune.study.expected_improvement import expected_improvement
from rlhf_tune.study.prior import FLAT, Places, shipped
from rlhf_tune.study.process import Points, Seen, _points
from rlhf_tune.study.space import lattice
from rlhf_tune.study.surrogate import MAX_TRIALS, fit, telling

RNG = np.random.default_rng(0)
SPACE = lattice(
    {
        "lr": FloatDistribution(1e-5, 1, log=True),
        "batch_size": IntDistribution(16, 256, log=True),
        "dropout": FloatDistribution(0, 1),
    },
    {},
)


def plain(x: np.ndarray) -> Points:
    """Points of parameters that no prior knows."""
    return Points(Places.at(np.zeros((len(x), 2))), x, x)


def real(n: int, seed: int = 0) -> Points:
    cells = np.random.default_rng(seed).integers(SPACE.shape, size=(n, 3))
    positions = SPACE.positions(cells)
    return _points(SPACE, positions, SPACE.in_length_scales(positions))


def test_equals_scikit_learn_at_the_same_hyperparameters() -> None:
    gp = pytest.importorskip("sklearn.gaussian_process")
    x, y = RNG.uniform(-2, 2, (15, 2)), RNG.normal(size=15)
    queries = RNG.uniform(-2, 2, (7, 2))
    ours = fit(Seen(FLAT, plain(x)), y, scales=[2.0])
    kernels = gp.kernels
    theirs = gp.GaussianProcessRegressor(
        kernels.Matern(1.0, nu=2.5) + kernels.ConstantKernel(100.0),
        alpha=ours.noise,
        optimizer=None,
    ).fit(x, (y - y.mean()) / 2)
    mean, deviation = theirs.predict(queries, return_std=True)
    predicted = ours.predict(plain(queries))
    np.testing.assert_allclose(predicted.mean, y.mean() + 2 * mean, rtol=1e-5)
    np.testing.assert_allclose(predicted.deviation, 2 * deviation, rtol=1e-4)
    noisy = ours.predict(plain(queries), noisy=True).deviation
    np.testing.assert_allclose(noisy**2, predicted.deviation**2 + 4 * ours.noise, rtol=1e-6)


@pytest.mark.parametrize("measure", ["performance", "robustness"])
def test_the_joint_covariance_agrees_with_the_deviations(measure: str) -> None:
    model = fit(Seen(shipped(measure), real(9)), RNG.normal(size=9))
    queries = real(12, seed=1)
    covariance = model.covariance(queries)
    np.testing.assert_allclose(
        np.diag(covariance), model.predict(queries).deviation ** 2, rtol=1e-4
    )
    assert np.linalg.eigvalsh(covariance).min() > -1e-8


@pytest.mark.parametrize(("shift", "scale"), [(0, 1e-6), (0, 1e4), (-3, 1), (1e3, 100)])
def test_the_unit_of_the_results_does_not_matter(shift: float, scale: float) -> None:
    here, there, values = real(8), real(20, seed=1), RNG.normal(size=8)
    base = fit(Seen(shipped("performance"), here), values).predict(there)
    moved = fit(Seen(shipped("performance"), here), shift + scale * values).predict(there)
    np.testing.assert_allclose((moved.mean - shift) / scale, base.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moved.deviation / scale, base.deviation, rtol=1e-3)


def test_the_scale_is_found() -> None:
    """Results drawn from the prior at scale 7 are recognised as such within a factor of two."""
    prior, here, rng = shipped("robustness"), real(40), np.random.default_rng(1)
    drawn = fit(Seen(prior, real(0)), np.empty(0), scales=[1.0])
    generic = rng.multivariate_normal(np.zeros(40), drawn.covariance(here))  # an offset among it
    assert 3.5 < fit(Seen(prior, here), 7 * (drawn.predict(here).mean + generic)).scale < 14


def test_one_result_says_nothing_about_the_scale_but_moves_the_offset() -> None:
    model = fit(Seen(shipped("performance"), real(1)), np.array([5.0]))
    assert model.predict(real(1)).mean[0] == pytest.approx(5.0, abs=0.1)


def test_far_from_all_data_the_doubt_is_the_prior_s() -> None:
    predicted = fit(Seen(FLAT, plain(np.zeros((1, 1)))), np.array([5.0]), scales=[2.0]).predict(
        plain(np.array([[0.0], [100.0]]))
    )
    assert predicted.deviation[1] == pytest.approx(2 * np.sqrt(2), rel=0.02)  # offset and g
    assert predicted.deviation[0] < 0.5
    assert predicted.mean[0] == pytest.approx(5.0, abs=0.2)


def test_noise_is_found_in_repeated_measurements() -> None:
    x = plain(np.zeros((12, 1)))
    noisy = fit(Seen(FLAT, x), RNG.normal(size=12), scales=[1.0])
    exact = fit(Seen(FLAT, x), np.full(12, 0.5), scales=[1.0])
    assert noisy.noise > exact.noise


def test_of_many_trials_the_best_and_the_rest_of_the_space_are_kept() -> None:
    x = np.sort(RNG.uniform(size=(3 * MAX_TRIALS, 1)), axis=0)
    y = -np.abs(x[:, 0] - 0.3)
    kept = telling(plain(x), y)
    found = fit(Seen(FLAT, plain(x)), y, kept=kept)
    found = found.predict(plain(np.array([[0.02], [0.3], [0.98]])))
    np.testing.assert_allclose(found.mean, [-0.28, 0.0, -0.68], atol=0.05)


def test_repeats_of_one_point_push_no_other_trial_out() -> None:
    x = np.concatenate([np.linspace(0, 1, 20), np.full(5 * MAX_TRIALS, 0.5)])[:, None]
    y = np.sin(6 * x[:, 0])
    found = fit(Seen(FLAT, plain(x)), y, kept=telling(plain(x), np.zeros(len(y))))
    there = np.linspace(0, 1, 20)
    mean = found.predict(plain(there[:, None])).mean
    np.testing.assert_allclose(mean, np.sin(6 * there), atol=0.15)


def test_without_data_the_prior_speaks() -> None:
    there = real(30, seed=2)
    empty = fit(Seen(shipped("robustness"), real(0)), np.empty(0), scales=[1.0])
    np.testing.assert_allclose(
        empty.predict(there).mean, shipped("robustness").mean_at(there.places), atol=1e-6
    )


# The mixture


def cliff(family: str, edge: float) -> Recorded:
    """Better with the learning rate, until it is useless beyond 10**edge."""
    rates, sizes = np.linspace(-5, 0.5, 23), np.log10([16.0, 64.0, 256.0])
    surface = np.where(rates <= edge, (rates - edge) / 5, -1.0)
    return Recorded(family, rates, sizes, np.repeat(surface[None, :, None], 3, axis=2).repeat(2, 0))


def along(decades: np.ndarray) -> Points:
    """Points at these learning rates, at one batch size."""
    positions = np.column_stack([decades, np.full(len(decades), np.log10(32.0))])
    return Points(Places.at(positions), positions, positions[:, :0])


CLIFFS = listed([cliff(str(edge), edge) for edge in (-3.5, -2.5, -1.5)])


def test_the_surface_that_a_study_resembles_is_found() -> None:
    """No Gaussian knows where the edge is; a list does, whatever the unit."""
    seen, there = np.array([-4.0, -3.0, -1.75, -1.25]), along(np.array([-2.6, -1.6, -1.0]))
    values = 7 - 40 * np.array([2.5, 1.5, 0.25, 5.0]) / 5  # edge at -1.5
    predicted = fit(Seen(CLIFFS, along(seen)), values).predict(there)
    np.testing.assert_allclose(predicted.mean, [-1.8, 6.2, -33], atol=4)
    assert predicted.mean[1] > values.max()


def test_while_surfaces_compete_the_doubt_is_between_them() -> None:
    there = along(np.array([-4.0, -2.0]))
    model = fit(Seen(CLIFFS, along(np.array([-3.9]))), np.array([0.0]), scales=[1.0])
    doubt = model.predict(there).deviation
    assert doubt[1] > 2 * doubt[0]
    assert model.weights.sum() == pytest.approx(1)
    assert (np.diff(model.weights) <= 0).all()


def test_moments_of_a_mixture_are_those_of_its_samples() -> None:
    model = fit(Seen(shipped("performance"), real(4)), RNG.normal(size=4))
    predicted = model.predict(real(3, seed=1))
    rng = np.random.default_rng(0)
    component = rng.choice(len(predicted.weights), size=200_000, p=predicted.weights)
    drawn = rng.normal(predicted.means[component], predicted.deviations[component])
    np.testing.assert_allclose(drawn.mean(axis=0), predicted.mean, atol=0.05)
    np.testing.assert_allclose(drawn.std(axis=0), predicted.deviation, rtol=0.02)
    improvement = predicted.weights @ expected_improvement(
        predicted.means, predicted.deviations, 0.5
    )
    np.testing.assert_allclose(
        np.maximum(0, drawn - 0.5).mean(axis=0), improvement, rtol=0.03, atol=0.01
    )


def test_a_prior_of_one_surface_gives_one_gaussian() -> None:
    assert len(fit(Seen(FLAT, plain(np.zeros((3, 1)))), RNG.normal(size=3)).weights) == 1
