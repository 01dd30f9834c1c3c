"""The prior: indifferent to ranges, and read from untrusted files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from safetensors.numpy import save_file

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.prior import (
    FLAT,
    RATES,
    SIZES,
    Places,
    load,
    places_of,
    save,
    shifted,
    shipped,
)
from rlhf_tune.study.space import lattice
from rlhf_tune.tensors import SHIPPED


def test_what_is_moved_beyond_the_ends_goes_on() -> None:
    surface = np.arange(len(RATES), dtype=float)[:, None] + np.zeros(len(SIZES))
    np.testing.assert_array_equal(shifted(surface, 0.5)[:4, 0], [0, 0, 0, 1])
    np.testing.assert_array_equal(shifted(surface, -0.5)[-3:, 0], len(RATES) - 1)


def test_surfaces_are_linear_between_the_nodes() -> None:
    middle = Places.at(np.array([[(RATES[3] + RATES[4]) / 2, SIZES[2]]]))
    prior = shipped("performance")
    ends = prior.mean[3:5, 2]
    assert prior.mean_at(middle)[0] == pytest.approx(ends.mean())


def test_any_range_can_be_asked() -> None:
    space = lattice(
        {
            "lr": FloatDistribution(1e-12, 1e6, log=True),
            "batch_size": IntDistribution(1, 8192, log=True),
        },
        {},
    )
    ends = places_of(space, space.positions(np.array([[0, 0], np.array(space.shape) - 1])))
    assert np.isfinite(shipped("performance").means_at(ends)).all()
    assert shipped("robustness").factors_at(ends).shape == (2, 24)


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
    np.testing.assert_allclose(
        prior.mean_at(places_of(one, where)), prior.mean_at(places_of(two, with_batch))
    )
    neither = lattice({"momentum": FloatDistribution(0, 1)}, {})
    mean = prior.mean_at(places_of(neither, np.array([[0.1], [0.9]])))
    assert mean[0] == mean[1]


def test_the_shipped_prior_prefers_usual_learning_rates_and_is_small() -> None:
    prior = shipped("performance")
    assert -3.2 < RATES[prior.mean[:, 3].argmax()] < -1.2
    assert SHIPPED.stat().st_size < 1_000_000


def test_saves_and_loads(tmp_path: Path) -> None:
    prior = shipped("performance")
    save({"performance": prior, "flat": FLAT}, tmp_path / "p.safetensors", {"tasks": "0"})
    again = load(tmp_path / "p.safetensors")
    assert again["flat"].noise == pytest.approx(FLAT.noise)
    assert again["flat"].factors.shape == FLAT.factors.shape
    np.testing.assert_allclose(again["performance"].surfaces, prior.surfaces, atol=1e-3)
    np.testing.assert_allclose(again["performance"].log_weights, prior.log_weights, rtol=1e-6)
    np.testing.assert_allclose(again["performance"].generic, prior.generic)


def test_what_is_no_policy_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)
    save_file({"performance.surfaces": np.zeros((3, 3), np.float32)}, path)
    with pytest.raises(InvalidInputError, match="pretrain"):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surfaces": np.full_like(FLAT.surfaces, np.nan)}, "not finite"),
        ({"surfaces": np.zeros((2, len(RATES), len(SIZES)))}, "must have shape"),
        ({"factors": np.zeros((1, 2, 2))}, "must have shape"),
        ({"weights": np.zeros(1)}, "above 0"),
        ({"noise": -1.0}, "above 0"),
        ({"generic": np.zeros(1)}, "above 0"),
        ({"shifts": np.zeros(0), "shift_weights": np.zeros(0)}, "above 0"),
    ],
)
def test_a_broken_prior_is_refused(change: dict, message: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    path = tmp_path / "p.safetensors"
    save({"performance": replace(FLAT, **change)}, path, {})
    with pytest.raises(InvalidInputError, match=message):
        load(path)


def test_shapes_are_those_of_the_grid() -> None:
    assert shipped("robustness").mean.shape == (len(RATES), len(SIZES))
