"""The rules of samples, each said with its value and its remedy."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.samples import (
    check_bounds,
    check_count,
    check_eps,
    check_fraction,
    check_samples,
)

X = np.linspace(0, 1, 6).reshape(3, 2)


def test_samples_come_back_as_arrays_without_a_copy() -> None:
    x, y = check_samples(X, [0, 1, 2])
    assert np.shares_memory(x, X)
    assert y.dtype == np.int64


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X.astype(str), [0, 1, 2], "must hold numbers"),
        (X[0], [0, 1], r"x\[None\]"),
        (X[:0], [], "N >= 1"),
        (np.where(X == 0, np.nan, X), [0, 1, 2], "NaN or infinite"),
        (X, [0, 1], "same length, but got 3 and 2"),
        (X, np.eye(3, dtype=int), "argmax"),
        (X, [[0], [1], [2]], r"y\[:, 0\]"),
        (X, [0.0, 1.0, 2.0], r"astype\(int\)"),
        (X, [-1, 0, 1], "start at 0, but `y` has -1"),
    ],
)
def test_bad_samples_are_refused(x: Any, y: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        check_samples(x, y)


def test_bounds_are_two_rising_numbers_that_the_samples_keep() -> None:
    assert check_bounds(X, (0, 1)) == (0.0, 1.0)
    for bounds in ((1, 0), (0, np.inf), (0, 1, 2)):
        with pytest.raises(InvalidInputError, match="low < high"):
            check_bounds(X, bounds)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="rescale it"):
        check_bounds(2 * X, (0, 1))


def test_a_radius_is_within_the_range_and_at_least_one_step_of_integers() -> None:
    assert check_eps(1, X, (0, 1)) == 1.0
    with pytest.raises(InvalidInputError, match="divide by 255"):
        check_eps(8, X, (0, 1))
    with pytest.raises(InvalidInputError, match="multiply it by 255"):
        check_eps(0.5, X.astype(int), (0, 1))


def test_counts_are_whole_and_fractions_within_0_and_1() -> None:
    assert check_count("n", np.int64(3)) == 3
    assert (check_fraction("f", 0), check_fraction("f", 1)) == (0.0, 1.0)
    for count in (0, 1.5, True):
        with pytest.raises(InvalidInputError, match="`n` must be a whole number >= 1"):
            check_count("n", count)
    for share in (-0.1, 55, np.nan):
        with pytest.raises(InvalidInputError, match="a fraction within"):
            check_fraction("f", share)
