"""Roles, the lattice and its moves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study.space import axis, contains, lattice, offsets

LR = FloatDistribution(1e-5, 1e-1, log=True)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("lr", "learning_rate"),
        ("learning_rate", "learning_rate"),
        ("head_lr", "learning_rate"),
        ("learningRate", "learning_rate"),
        ("lr_1", "learning_rate"),
        ("batch_size", "batch_size"),
        ("train_batch_size", "batch_size"),
        ("batchsize", "batch_size"),
        ("bs", "batch_size"),
        ("momentum", "other"),
        ("lr_decay", "other"),
        ("jobs", "other"),
    ],
)
def test_roles_are_inferred_from_names(name: str, role: str) -> None:
    dist = IntDistribution(1, 8)
    assert axis(name, dist, None).role == role


def test_a_learning_rate_has_ten_points_a_decade() -> None:
    values = axis("lr", LR, None).values
    assert len(values) == 41
    assert values[0] == 1e-5
    assert values[-1] == 1e-1
    assert 1e-3 in values
    ratios = np.diff(np.log10(values))
    np.testing.assert_allclose(ratios, 0.1, atol=0.01)
    assert len(axis("weight_decay", LR, None).values) == 21  # others have five


def test_a_batch_size_has_powers_of_two() -> None:
    assert axis("batch_size", IntDistribution(10, 300), None).values == (16, 32, 64, 128, 256)
    assert axis("batch_size", IntDistribution(5, 7), None).values == (5, 7)
    choices = CategoricalDistribution([64, 8, 100])
    assert axis("batch_size", choices, None).values == (8, 64, 100)


def test_a_linear_learning_rate_is_still_searched_on_a_log_scale() -> None:
    values = axis("lr", FloatDistribution(1e-4, 1e-1), None).values
    assert np.allclose(np.diff(np.log10(values)), 0.1, atol=0.01)


@pytest.mark.parametrize(
    "dist",
    [
        FloatDistribution(-1, 1),
        FloatDistribution(0, 1, step=0.1),
        FloatDistribution(1e-7, 1e2, log=True),
        FloatDistribution(2.0, 2.0),
        IntDistribution(0, 3),
        IntDistribution(-10, 998, step=7),
        IntDistribution(1, 10**9, log=True),
        CategoricalDistribution([3, 1.5, 2]),
    ],
)
def test_every_candidate_is_legal_sorted_and_found_again(dist) -> None:  # type: ignore[no-untyped-def]
    a = axis("x", dist, None)
    assert all(contains(dist, v) for v in a.values)
    assert list(a.values) == sorted(set(a.values))
    assert len(a.values) <= 65
    assert [a.index(v) for v in a.values] == list(range(len(a.values)))
    assert contains(dist, a.default)


@given(st.floats(1e-12, 1e12), st.floats(1e-9, 1e3), st.floats(1.0001, 1e6))
def test_any_value_is_projected_on_any_log_range(value: float, low: float, factor: float) -> None:
    a = axis("lr", FloatDistribution(low, low * factor, log=True), None)
    index = a.index(value)
    assert 0 <= index < len(a.values)
    inside = min(max(value, low), low * factor)
    gaps = np.abs(np.log(np.array(a.values) / inside))
    assert gaps[index] <= gaps.min() + 1e-9


def test_moves_have_several_sizes_and_stay_is_first() -> None:
    moves = offsets((21, 6))
    assert (moves[0] == 0).all()
    assert len({tuple(m) for m in moves}) == len(moves) == 1 + 10 + 6 + 60
    assert {abs(m[0]) for m in moves} == {0, 1, 2, 4, 8, 16}
    assert {tuple(-m) for m in moves} == {tuple(m) for m in moves}


@pytest.mark.parametrize("axes", [1, 2, 7, 12, 40])
def test_there_are_never_too_many_moves(axes: int) -> None:
    moves = offsets((21,) * axes)
    assert 1 < len(moves) <= 1024
    assert (np.abs(moves).max(axis=0) > 0).all()


def test_no_axes_leave_only_stay() -> None:
    assert offsets(()).shape == (1, 0)
    assert lattice({}, {}).size == 1


def test_positions_and_cells_agree() -> None:
    space = lattice({"lr": LR, "batch_size": IntDistribution(16, 512, log=True)}, {})
    params = {"lr": 1e-3, "batch_size": 64}
    positions = space.positions_of([params, {"lr": 50.0, "batch_size": 1}])
    cells = space.cells(positions)
    assert space.params(cells[0].tolist()) == params
    assert space.params(cells[1].tolist()) == {"lr": 1e-1, "batch_size": 16}
    np.testing.assert_allclose(space.positions(cells), positions)
    assert math.isclose(positions[0, 1], -3)


def test_roles_must_fit() -> None:
    with pytest.raises(InvalidInputError, match="a batch size must be an integer"):
        axis("b", FloatDistribution(1, 2), "batch_size")
    with pytest.raises(InvalidInputError, match="must not be negative"):
        axis("lr", FloatDistribution(-1, 2), None)
    assert axis("batch_size", FloatDistribution(16, 64, step=16), None).values == (16, 32, 64)
