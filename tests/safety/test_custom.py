"""Measurements, and how constraints combine."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Measurement, by_group, constraint
from rlhf_tune.safety.intervals import bootstrap_interval, proportion_interval
from rlhf_tune.safety.measurement import measured


def test_cost_is_the_distance_of_the_deciding_bound() -> None:
    floor = measured("m", 0.6, 0.5, (0.55, 0.65), 9, kind="floor")
    ceiling = measured("m", 0.6, 0.5, (0.55, 0.65), 9, kind="ceiling")
    assert floor.cost == pytest.approx(-0.05)
    assert floor.satisfied
    assert ceiling.cost == pytest.approx(0.15)
    assert not ceiling.satisfied


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_never_satisfied(value: float) -> None:
    result = measured("m", value, 0.5, (value, value), 9, kind="floor")
    assert (result.cost, result.trusted, result.satisfied) == (math.inf, False, False)
    assert "not finite" in result.reasons[0]


def test_doubt_costs_infinity_however_good_the_value() -> None:
    result = measured("m", 1.0, 0.5, (0.9, 1.0), 9, kind="floor", reasons=["masked gradients"])
    assert (result.cost, result.trusted) == (math.inf, False)


def test_a_number_is_taken_as_exact() -> None:
    size = constraint("size", len, at_most=3)
    assert size([1, 2]).cost == -1
    assert size([1, 2, 3, 4]).cost == 1


def test_booleans_per_sample_get_the_exact_interval() -> None:
    result = constraint("right", lambda model: np.array([True] * 59 + [False] * 41), at_least=0.5)(
        None
    )
    assert result.interval == proportion_interval(59, 100, 0.95)
    assert (result.value, result.n, result.satisfied) == (0.59, 100, True)


def test_numbers_per_sample_get_the_bootstrap() -> None:
    gaps = np.random.default_rng(1).normal(1, 1, 400)
    result = constraint("gap", lambda model: gaps, at_most=1.5)(None)
    assert result.interval == bootstrap_interval([gaps], np.mean, 0.95)
    assert result.interval[0] < result.value < result.interval[1]


@pytest.mark.parametrize("bounds", [{}, {"at_least": 0, "at_most": 1}])
def test_a_constraint_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(InvalidInputError, match="exactly one of"):
        constraint("m", len, **bounds)


def test_a_measure_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"shape \(2, 2\)"):
        constraint("m", lambda model: np.zeros((2, 2)), at_most=1)(None)


def test_both_constraints_are_asked_and_the_worse_one_speaks() -> None:
    loose = constraint("loose", len, at_most=10)
    tight = constraint("tight", len, at_most=1)
    both = loose & tight
    result = both([1, 2, 3])
    assert both.name == result.name == "loose & tight"
    assert (result.cost, result.bound) == (2, 1)
    assert result.details["loose.cost"] == -7
    assert not result.satisfied


def test_three_constraints_and_a_plain_function_combine() -> None:
    def plain(model: object) -> Measurement:
        return measured("plain", 0.2, 0.1, (0.2, 0.2), 1, kind="ceiling", reasons=["a guess"])

    first, second = constraint("a", len, at_most=9), constraint("b", len, at_most=9)
    for combined in (first & second & plain, plain & first & second):
        result = combined([])
        assert (result.cost, result.trusted) == (math.inf, False)
        assert any("a guess" in reason for reason in result.reasons)


def test_the_worst_group_speaks_for_all() -> None:
    right, group = np.array([True] * 90 + [False] * 10), np.repeat(["a", "b"], 50)
    both = by_group(
        group, lambda of: constraint("accuracy", lambda model: right[of], at_least=0.75)
    )
    measured = both(None)
    assert measured.name == "accuracy by group"
    assert measured.value == pytest.approx(0.8)
    assert measured.details["accuracy[a]"] == 1
    assert measured.details["accuracy[a].cost"] < 0 < measured.details["accuracy[b].cost"]
    assert measured.cost == measured.details["accuracy[b].cost"]


def test_one_untrusted_group_spoils_all() -> None:
    values = np.array([0.9, math.nan])
    both = by_group([0, 1], lambda of: constraint("f", lambda model: values[of][0], at_least=0.5))
    assert both(None).cost == math.inf
    assert both(None).reasons == ("f[1]: the value is not finite",)


@pytest.mark.parametrize("groups", [[], [[1, 2]], 3])
def test_groups_are_one_label_a_sample(groups: object) -> None:
    with pytest.raises(InvalidInputError, match="one label per sample"):
        by_group(groups, lambda of: constraint("f", lambda model: 1.0, at_least=0.5))
