"""What values per sample prove: their range, their rounding, and what is no number at all."""

import math
import warnings
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Measurement, constraint
from rlhf_tune.safety.intervals import mean_interval, proportion_interval


def floor(values: Any, at_least: float = 0.5, **arguments: Any) -> Measurement:
    return constraint("m", lambda model: values, at_least=at_least, **arguments)(None)


@pytest.mark.parametrize("n", [50, 60, 300])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_what_is_nearly_one_certifies_no_more_than_ones(kind: str, n: int) -> None:
    """Probabilities of a sure model, none of which is exactly 1."""
    values = (1 - 1e-6 * np.arange(n)).astype(kind)
    assert floor(values).interval[0] <= proportion_interval(n, n, 0.95)[0]
    mirrored = constraint("m", lambda model: 1 - values, at_most=0.01)(None)
    assert mirrored.interval[1] >= proportion_interval(0, n, 0.95)[1]


def test_percentages_that_are_nearly_a_hundred_are_not_certain() -> None:
    values = 100 - 1e-3 * np.arange(50)
    assert floor(values).interval[0] < 100 * proportion_interval(50, 50, 0.95)[0]


def test_a_guessed_range_is_wider_than_a_declared_one() -> None:
    values = np.random.default_rng(0).random(120)
    guessed, declared = floor(values), floor(values, within=(0, 1))
    assert np.diff(guessed.interval) > np.diff(declared.interval)
    assert guessed.notes
    assert not declared.notes


def test_losses_of_a_declared_range_use_it() -> None:
    losses = np.random.default_rng(0).random(120) * 1e-3
    declared = constraint("loss", lambda model: losses, at_most=0.001, within=(0, 0.002))(None)
    assert declared.satisfied
    assert not constraint("loss", lambda model: losses, at_most=0.001)(None).satisfied


@pytest.mark.parametrize("value", [[0.7], [[0.7]], np.float32([2.5])])
def test_one_value_in_an_array_is_a_sample_of_one(value: Any) -> None:
    result = floor(value)
    assert not result.trusted
    assert "one value" in result.reasons[0]
    assert "float(value)" in result.reasons[0]
    assert floor(np.ravel(value)[0]).trusted


def test_rounding_beyond_a_range_is_forgiven_and_more_is_not() -> None:
    softmax = np.array([1 + 1e-7, 0.25, -1e-9] * 40, dtype=np.float32)
    result = floor(softmax, within=(0, 1))
    assert result.interval == mean_interval(np.clip(softmax, 0, 1), 0.95, 0, 1)
    with pytest.raises(InvalidInputError, match=r"within \(0, 1\), but span \[0, 1\.00001"):
        floor(np.array([1 + 1e-5, 0.25, -1e-9]), within=(0, 1))


@pytest.mark.parametrize("values", [[1e308] * 80 + [-1e307], [1.7e308, -1.7e308] * 40])
def test_what_overflows_is_not_trusted(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = floor(values)
    assert (result.trusted, result.cost) == (False, math.inf)
    assert result.reasons


@pytest.mark.parametrize(
    "within", [3, "01", ("a", "b"), (None, 1), (0, math.inf), (-math.inf, 0), (0, math.nan), [0]]
)
def test_a_range_is_two_finite_numbers(within: Any) -> None:
    with pytest.raises(InvalidInputError, match="`within` must be"):
        floor([0.5], within=within)


@pytest.mark.parametrize("within", [[0, 1], np.array([0.0, 1.0]), (False, True)])
def test_a_range_of_zero_to_one_keeps_zeros_and_ones_exact(within: Any) -> None:
    assert floor([1, 1, 0], within=within).interval == proportion_interval(2, 3, 0.95)


@pytest.mark.parametrize("bad", ["0.5", [0.5], math.nan, math.inf, 1j])
def test_a_bound_is_a_finite_number(bad: Any) -> None:
    for word in ("at_least", "at_most"):
        with pytest.raises(InvalidInputError, match=f"`{word}` must"):
            constraint("m", len, **{word: bad})


@pytest.mark.parametrize("bad", ["0.95", None, [0.9], 95, math.nan])
def test_a_confidence_is_a_number(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match="`confidence` must"):
        constraint("m", len, at_most=1, confidence=bad)


def test_a_measure_is_a_function() -> None:
    with pytest.raises(InvalidInputError, match=r"`measure` must be a function .* but got float"):
        constraint("m", 0.3, at_most=1)  # type: ignore[arg-type]


def test_tensors_in_a_list_are_values() -> None:
    torch = pytest.importorskip("torch")
    losses = [torch.tensor(k / 80, requires_grad=True).bfloat16() for k in range(80)]
    assert floor(losses).n == 80
    assert floor([torch.ones((), requires_grad=True)] * 5).interval[0] == pytest.approx(0.05**0.2)
    bound = constraint("m", lambda model: 0.7, at_least=torch.tensor(0.5), confidence=0.9)
    assert bound(None).satisfied is True


def test_an_error_of_the_measure_itself_is_let_through_with_its_name() -> None:
    def broken(model: object) -> float:
        raise KeyError("weights")

    both = constraint("fine", len, at_most=9) & constraint("broken", broken, at_most=1)
    with pytest.raises(KeyError) as caught:
        both([])
    assert caught.value.__notes__ == ["raised by the constraint 'broken'"]
