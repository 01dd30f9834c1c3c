"""Roles, the lattice and its moves."""

import math
from typing import Any

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
    dist = IntDistribution(1, 8) if role == "batch_size" else FloatDistribution(0.1, 0.9)
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


def test_a_batch_size_has_half_octaves_and_both_ends() -> None:
    values = axis("batch_size", IntDistribution(10, 300), None).values
    assert values == (10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300)
    stepped = axis("batch_size", IntDistribution(20, 1000, step=20), None).values
    assert stepped[0] == 20
    assert stepped[-1] == 1000
    assert all(value % 20 == 0 for value in stepped)
    choices = CategoricalDistribution([64, 8, 100])
    assert axis("batch_size", choices, None).values == (8, 64, 100)


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("batch_size", IntDistribution(5, 7)),
        ("log2_batch_size", IntDistribution(3, 9)),
        ("depth", IntDistribution(1, 33, log=True)),
        ("units", IntDistribution(32, 512, step=32)),
        ("dropout", FloatDistribution(0.0, 0.5, step=0.05)),
    ],
)
def test_a_range_of_few_values_has_all_of_them(name: str, distribution: Any) -> None:
    values = axis(name, distribution, None).values
    step = distribution.step
    expected = np.arange(distribution.low, distribution.high + step / 2, step)
    np.testing.assert_allclose(values, expected)


@pytest.mark.parametrize("low", [0.9996e-3, 0.999999e-3])
def test_a_narrow_range_keeps_its_digits(low: float) -> None:
    values = axis("lr", FloatDistribution(low, 1e-3, log=True), None).values
    assert len(values) >= 5
    assert values[0] == low
    assert values[-1] == 1e-3


def test_a_learning_rate_from_zero_is_searched_on_a_log_scale() -> None:
    found = axis("lr", FloatDistribution(0, 0.5), None)
    assert found.log
    assert found.values[:2] == (0.0, 5e-5)
    assert (np.diff(found.coordinates) > 0).all()
    np.testing.assert_allclose(found.coordinates_of([0.0, 1e-9]), found.coordinates[0])


def test_numbers_written_as_text_are_ordered() -> None:
    found = axis("lr", CategoricalDistribution(["1e-2", "0.001", "0.1"]), None)
    assert found.values == ("0.001", "1e-2", "0.1")
    assert found.role == "learning_rate"
    np.testing.assert_allclose(found.coordinates, [-3, -2, -1])
    assert found.index("1e-2") == 1
    assert found.default == "0.001"


@pytest.mark.parametrize(
    "choices", [["a", "b"], [True, False], [1, math.inf], [None, 1], ["1", 1.0]]
)
def test_other_choices_have_no_order_and_are_a_step_apart(choices: list[Any]) -> None:
    space = lattice({"a": CategoricalDistribution(choices), "x": FloatDistribution(0, 1)}, {})
    assert not space.axes[0].ordered
    assert space.unordered == (0,)
    cells = space.cells(space.positions_of([{"a": choice, "x": 0.5} for choice in choices]))
    assert [space.params(cell)["a"] for cell in cells.tolist()] == choices
    features = space.in_length_scales(space.positions(cells))
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx(1)


def test_a_category_moves_to_any_other_choice() -> None:
    moves = offsets((7, 3), (0,))
    assert {abs(move) for move in moves[:, 0].tolist()} == set(range(7))


def test_refining_halves_the_steps_around_a_cell_until_the_range_has_no_more() -> None:
    found = axis("momentum", FloatDistribution(0.9, 0.9999), None)
    finer = found.refined(20)
    assert len(finer.values) == len(found.values) + 1  # at the end there is one side
    assert set(found.values) < set(finer.values)
    small = axis("depth", IntDistribution(1, 100), None)
    while (finer := small.refined(small.index(42))) is not small:
        small = finer
    assert {41, 42, 43} <= set(small.values)
    choices = axis("a", CategoricalDistribution([1, 2]), None)
    assert choices.refined(0) is choices


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


@pytest.mark.parametrize("axes", [1, 2, 7, 12, 40, 100, 600])
def test_there_are_never_too_many_moves(axes: int) -> None:
    moves = offsets((21,) * axes)
    assert 1 < len(moves) <= max(1024, 1 + 10 * axes)
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
        axis("lr", FloatDistribution(-1, 2), "learning_rate")
    with pytest.raises(InvalidInputError, match="a learning rate must be a number"):
        axis("lr", CategoricalDistribution(["low", "high"]), "learning_rate")
    stepped = axis("b", FloatDistribution(16, 64, step=16), "batch_size")
    assert stepped.values == (16, 32, 48, 64)
