"""The prior: learned from surfaces, wide, indifferent to ranges, and read from untrusted files."""

from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from safetensors.numpy import save_file

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.policy.pretrain import Recorded, learn
from rlhf_tune.prior import FLAT, RATES, SHIPPED, SIZES, Prior, load, save, shipped
from rlhf_tune.space import lattice


def bowl(family: str, best: float) -> Recorded:
    """A task whose best learning rate is 10**best."""
    rates, sizes = np.linspace(-5, 1, 13), np.log10([16.0, 64.0, 256.0])
    surface = np.repeat(-np.minimum(1, 0.25 * (rates - best) ** 2)[:, None], 3, axis=1)
    return Recorded(family, rates, sizes, np.stack([surface, surface + 0.01]))


def test_the_mean_is_best_where_most_tasks_are() -> None:
    prior = learn("performance", [bowl("a", -2), bowl("b", -2.5), bowl("c", -1.5)])
    assert RATES[prior.mean[:, 4].argmax()] == pytest.approx(-2, abs=0.3)
    assert prior.noise == pytest.approx(0.01**2 / 2, rel=1e-3)


def test_factors_reproduce_the_covariance_of_the_moved_surfaces() -> None:
    """An optimum 1.4 decades away is within two prior deviations everywhere."""
    prior = learn("performance", [bowl("a", -2), bowl("b", -2.5), bowl("c", -1.5)])
    deviation = np.sqrt((prior.factors**2).sum(axis=0) + prior.generic)
    moved = -np.minimum(1, 0.25 * (np.clip(RATES, -5, 1) + 0.6) ** 2)[:, None]
    assert (np.abs(moved - prior.mean) < 2 * deviation).all()


def test_a_family_of_many_tasks_does_not_drown_the_others() -> None:
    many = [bowl("many", -4) for _ in range(16)]
    prior = learn("performance", [*many, *(bowl(name, -1) for name in "abcd")])
    alone = learn("performance", [bowl("many", -4), bowl("a", -1)])
    np.testing.assert_allclose(prior.mean, alone.mean, atol=1e-9)


def test_any_range_can_be_asked() -> None:
    space = lattice(
        {
            "lr": FloatDistribution(1e-12, 1e6, log=True),
            "batch_size": IntDistribution(1, 8192, log=True),
        },
        {},
    )
    ends = space.positions(np.array([[0, 0], np.array(space.shape) - 1]))
    mean, factors = shipped("performance").at(space, ends)
    assert np.isfinite(mean).all()
    assert factors.shape == (2, 24)


def test_roles_that_are_absent_are_held_at_their_default() -> None:
    one = lattice({"lr": FloatDistribution(1e-4, 1e-2, log=True)}, {})
    two = lattice(
        {
            "lr": FloatDistribution(1e-4, 1e-2, log=True),
            "batch_size": IntDistribution(32, 64, log=True),
        },
        {},
    )
    where = np.log10([[1e-3]])
    with_batch = np.column_stack([np.log10([32.0]), where[:, 0]])  # axes are sorted by name
    prior = shipped("performance")
    np.testing.assert_allclose(prior.at(one, where)[0], prior.at(two, with_batch)[0])
    neither = lattice({"momentum": FloatDistribution(0, 1)}, {})
    mean, _ = prior.at(neither, np.array([[0.1], [0.9]]))
    assert mean[0] == mean[1]


def test_the_shipped_prior_prefers_usual_learning_rates_and_is_small() -> None:
    prior = shipped("performance")
    assert -3.2 < RATES[prior.mean[:, 3].argmax()] < -1.2
    assert SHIPPED.stat().st_size < 1_000_000


def test_saves_and_loads(tmp_path: Path) -> None:
    save({"performance": FLAT}, tmp_path / "p.safetensors", {"tasks": "0"})
    again = load(tmp_path / "p.safetensors")["performance"]
    assert again.noise == pytest.approx(FLAT.noise)
    assert again.factors.shape == FLAT.factors.shape


def test_what_is_no_policy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)
    save_file({"performance.mean": np.zeros((3, 3), np.float32)}, path)
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)
    broken = Prior(np.full_like(FLAT.mean, np.nan), FLAT.factors, 0.1, 1.0)
    save({"performance": broken}, path, {})
    with pytest.raises(InvalidInputError, match="not finite"):
        load(path)


def test_shapes_are_those_of_the_grid() -> None:
    assert shipped("robustness").mean.shape == (len(RATES), len(SIZES))
