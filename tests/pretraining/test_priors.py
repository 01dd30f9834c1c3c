"""Priors learned from recorded surfaces: wide, and fair to small families."""

import numpy as np
import pytest

from rlhf_tune.pretraining.priors import (
    _SAMPLED,
    _SAMPLED_WEIGHTS,
    SHIFTS,
    Recorded,
    _surface,
    gaussian,
    listed,
)
from rlhf_tune.study.prior import (
    RATES,
    SIZES,
    Places,
)


def bowl(family: str, best: float) -> Recorded:
    """A task whose best learning rate is 10**best."""
    rates, sizes = np.linspace(-5, 1, 13), np.log10([16.0, 64.0, 256.0])
    surface = np.repeat(-np.minimum(1, 0.25 * (rates - best) ** 2)[:, None], 3, axis=1)
    return Recorded(family, rates, sizes, np.stack([surface, surface + 0.01]))


BOWLS = [bowl("a", -2), bowl("b", -2.5), bowl("c", -1.5)]
NODES = Places.at(np.stack(np.meshgrid(RATES, SIZES, indexing="ij"), axis=-1).reshape(-1, 2))


@pytest.mark.parametrize("learn", [listed, gaussian])
def test_the_mean_is_best_where_most_tasks_are(learn) -> None:  # type: ignore[no-untyped-def]
    prior = learn(BOWLS)
    assert RATES[prior.mean[:, 4].argmax()] == pytest.approx(-2, abs=0.3)
    assert prior.noise == pytest.approx(0.01**2 / 2, rel=1e-3)


def moved_bowl(best: float) -> np.ndarray:
    """[L, B] the surface of a bowl whose optimum lies elsewhere."""
    surface = -np.minimum(1, 0.25 * (np.clip(RATES, -5, 1) - best) ** 2)
    return np.repeat(surface[:, None], len(SIZES), axis=1)


def test_factors_reproduce_the_covariance_of_the_moved_surfaces() -> None:
    prior = gaussian(BOWLS)
    surfaces = np.array([_surface(task, shift).ravel() for task in BOWLS for shift in _SAMPLED])
    weights = np.tile(_SAMPLED_WEIGHTS, len(BOWLS))
    expected = np.cov(surfaces.T, aweights=weights, bias=True)
    factors = prior.factors.reshape(len(prior.factors), -1)
    np.testing.assert_allclose(factors.T @ factors, expected, atol=1e-9)


@pytest.mark.parametrize("away", [-1.4, 1.4])
def test_a_list_is_wide(away: float) -> None:
    """Of an optimum 1.4 decades off, some possibility is within two deviations everywhere."""
    prior = listed(BOWLS)
    apart = np.abs(prior.means_at(NODES) - moved_bowl(-2 + away).reshape(-1, 1)).max(axis=0)
    assert apart.min() < 2 * np.sqrt(prior.generic.max())


def test_a_list_holds_every_surface_as_it_is_and_moved() -> None:
    prior = listed(BOWLS)
    possible = prior.means_at(NODES)  # [nodes, possibilities]
    assert possible.shape == (len(RATES) * len(SIZES), len(BOWLS) * len(SHIFTS))
    np.testing.assert_allclose(np.exp(prior.log_weights).sum(), 1)
    for i, best in enumerate((-2, -2.5, -1.5)):
        for j, shift in enumerate(SHIFTS):
            surface = possible[:, i * len(SHIFTS) + j].reshape(len(RATES), len(SIZES))
            assert RATES[surface[:, 4].argmax()] == pytest.approx(best + shift, abs=0.13)
    mean = possible @ np.exp(prior.log_weights)
    np.testing.assert_allclose(prior.mean_at(NODES), mean, atol=1e-6)
    np.testing.assert_array_equal(prior.means_at(NODES, np.array([4, 0])), possible[:, [4, 0]])


@pytest.mark.parametrize("learn", [listed, gaussian])
def test_a_family_of_many_tasks_does_not_drown_the_others(learn) -> None:  # type: ignore[no-untyped-def]
    many = [bowl("many", -4) for _ in range(16)]
    prior = learn([*many, *(bowl(name, -1) for name in "abcd")])
    alone = learn([bowl("many", -4), bowl("a", -1)])
    np.testing.assert_allclose(prior.mean, alone.mean, atol=1e-6)
