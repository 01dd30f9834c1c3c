"""Measurements, and how constraints combine."""

import math

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Constraint, Measurement, by_group, constraint
from rlhf_tune.safety.intervals import mean_interval, proportion_interval
from rlhf_tune.safety.measurement import measure_all, measured


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


def test_numbers_of_a_declared_range_get_its_interval() -> None:
    gaps = np.random.default_rng(1).random(400)
    result = constraint("gap", lambda model: gaps, at_most=0.6, within=(0, 2))(None)
    assert result.interval == mean_interval(gaps, 0.95, 0, 2)
    assert result.interval[0] < result.value < result.interval[1]
    assert (result.trusted, result.notes) == (True, ())
    with pytest.raises(InvalidInputError, match=r"values must lie within \(0, 0\.5\), but span"):
        constraint("gap", lambda model: gaps, at_most=0.6, within=(0, 0.5))(None)


def test_numbers_of_an_unknown_range_say_so() -> None:
    losses = np.random.default_rng(1).exponential(size=400)
    result = constraint("loss", lambda model: losses, at_most=1.5)(None)
    span = np.ptp(losses)
    assert result.interval == mean_interval(
        losses, 0.95, losses.min() - span / 2, losses.max() + span / 2
    )
    assert result.trusted
    assert "supposes that no value lies beyond" in result.notes[0]
    assert "within=(low, high)" in result.notes[0]


@pytest.mark.parametrize("values", [np.full(300, 0.7), np.full(300, -2), np.full(300, 1e9)])
def test_equal_numbers_prove_nothing(values: np.ndarray) -> None:
    result = constraint("loss", lambda model: values, at_most=2e9)(None)
    assert (result.trusted, result.cost) == (False, math.inf)
    assert "all 300 values are" in result.reasons[0]
    declared = constraint("loss", lambda model: values, at_most=2e9, within=(-5, 2e9))(None)
    assert declared.interval[0] < values[0] < declared.interval[1]


def test_few_numbers_of_an_unknown_range_prove_nothing() -> None:
    values = np.random.default_rng(0).random(99)
    result = constraint("loss", lambda model: values, at_most=1)(None)
    assert not result.trusted
    assert "99 values are too few" in result.reasons[0]


@pytest.mark.parametrize("n", [1, 2, 5, 28])
@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "int64", "float16", "float64", "list"])
def test_zeros_and_ones_are_a_proportion_whatever_their_type(kind: str, n: int) -> None:
    right = [True] * n
    values = right if kind == "list" else np.array(right, dtype=kind)
    result = constraint("right", lambda model: values, at_least=0.9)(None)
    assert result.interval == proportion_interval(n, n, 0.95)
    assert not result.satisfied
    column = constraint("right", lambda model: np.reshape(values, (-1, 1)), at_least=0.9)(None)
    assert column.interval == result.interval


def test_zeros_and_ones_of_a_wider_range_are_no_proportion() -> None:
    """Ratings from 0 to 5 of which only 0 and 1 were given."""
    ratings = np.array([1, 0, 1, 1] * 25)
    result = constraint("rating", lambda model: ratings, at_most=2, within=(0, 5))(None)
    assert result.interval == mean_interval(ratings, 0.95, 0, 5)
    assert result.interval[1] > proportion_interval(75, 100, 0.95)[1]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
def test_tensors_are_numbers(kind: str) -> None:
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, kind)
    right = torch.ones(60, dtype=dtype, requires_grad=True)
    result = constraint("right", lambda model: right * 1, at_least=0.9)(None)
    assert result.interval == proportion_interval(60, 60, 0.95)
    assert constraint("one", lambda model: right.mean(), at_least=0.9)(None).value == 1


@pytest.mark.parametrize("returned", [None, "good", ["a"], {"a": 1}, [[1], [1, 2]], 1j, object()])
def test_what_is_no_number_is_a_sentence_that_names_the_constraint(returned: object) -> None:
    with pytest.raises(InvalidInputError, match="what 'odd' measures must"):
        constraint("odd", lambda model: returned, at_least=0)(None)


def test_undefined_values_are_counted_and_never_satisfy() -> None:
    values = [0.5, math.nan, math.inf, 0.5]
    for within in (None, (0, 1)):
        result = constraint("m", lambda model: values, at_most=9, within=within)(None)
        assert (result.cost, result.trusted) == (math.inf, False)
        assert result.reasons == ("the value is not finite",)
        assert result.notes == ("2 of 4 values are NaN or infinite",)


@pytest.mark.parametrize("within", [(1, 0), (0, 0), (0,), (0, 1, 2)])
def test_a_range_rises(within: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInputError, match="`within` must be"):
        constraint("m", len, at_most=1, within=within)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "  ", 3, None])
def test_a_name_is_a_text(name: object) -> None:
    with pytest.raises(InvalidInputError, match="`name` must be a text"):
        constraint(name, len, at_most=1)  # type: ignore[arg-type]


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


# Names, and parts


def test_equal_names_are_refused_before_anything_is_measured() -> None:
    def never(model: object) -> float:
        raise AssertionError

    a, b = (constraint("size", never, at_most=bound) for bound in (1, 2))
    with pytest.raises(InvalidInputError, match=r"got \['size'\] more than once; .*name="):
        _ = a & b
    with pytest.raises(InvalidInputError, match=r"got \['size'\] more than once"):
        measure_all([a, b], None)


def test_details_and_notes_survive_every_way_of_combining() -> None:
    losses = np.random.default_rng(1).exponential(size=400)

    def noted(name: str) -> Constraint:
        return constraint(name, lambda model: losses, at_most=9)

    a, b, c, d = (noted(name) for name in "abcd")
    for combined in (a & b & c & d, (a & b) & (c & d), a & (b & (c & d))):
        result = combined(None)
        assert result.name == "a & b & c & d"
        assert [result.details[f"{name}.cost"] for name in "abcd"] == [result.cost] * 4
        assert [note.partition(":")[0] for note in result.notes] == list("abcd")


def test_groups_within_a_conjunction_keep_their_figures() -> None:
    groups = np.array([0, 1, 1, 0])
    by = by_group(groups, lambda of: constraint("size", lambda m: float(of.sum()), at_most=9))
    result = (by & constraint("other", lambda m: 1.0, at_most=2))(None)
    assert result.details["size by group.size[0]"] == 2
    assert result.details["other"] == 1


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([1.0, math.nan, math.nan], "2 of 3 are None or NaN"),
        (np.array([1.0, math.nan]), "1 of 2 are None or NaN"),
        (["a", None, "b"], "1 of 3 are None or NaN"),
        (np.array(["a", None], dtype=object), "1 of 2 are None or NaN"),
        ([1, "1"], "1 of 2 are text"),
        ([], "one label per sample"),
        ([["a"]], "one label per sample"),
    ],
)
def test_groups_that_cannot_be_told_apart_are_named(groups: object, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        by_group(groups, lambda of: constraint("m", len, at_most=1))  # type: ignore[arg-type]
