"""What is handed over as constraints, by itself, with `&` and by group."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety import Constraint, Measurement, by_group, constraint
from rlhf_tune.safety.measurement import measure_all, measured
from rlhf_tune.study.risk import SafetyChecker

SIZE = constraint("size", len, at_most=3)


@pytest.mark.parametrize("other", [None, 3, "size", [SIZE]])
def test_only_functions_of_a_model_combine(other: Any) -> None:
    for combine in (lambda: SIZE & other, lambda: other & SIZE):
        with pytest.raises(InvalidInputError, match="constraints must be functions of a model"):
            combine()


def test_plain_functions_go_by_their_name() -> None:
    def plain(model: object) -> Measurement:
        return measured("p", 0.2, 0.1, (0.2, 0.2), 1, kind="ceiling")

    assert (SIZE & plain).name == "size & plain"
    with pytest.raises(InvalidInputError, match=r"got \['<lambda>'\] more than once"):
        _ = SIZE & (lambda model: plain(model)) & (lambda model: plain(model))


def test_what_is_returned_must_be_a_measurement() -> None:
    def share(model: object) -> float:
        return 0.3

    for measure in (lambda: (SIZE & share)([]), lambda: measure_all([share], [])):  # type: ignore[operator, list-item]
        with pytest.raises(InvalidInputError, match="'share' returned float; constraint"):
            measure()


@pytest.mark.parametrize("make", [SafetyChecker, lambda these: measure_all(these, [])])
@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (SIZE, "must be a list"),
        (None, "must be a list"),
        ([SIZE, None], "must be functions of a model, but got None"),
        ([SIZE, constraint("size", len, at_most=5)], r"\['size'\] more than once"),
        ([SIZE & constraint("b", len, at_most=1)] * 2, r"\['size & b'\] more than once"),
    ],
)
def test_lists_of_constraints_are_checked_when_handed_over(
    make: Callable[[Any], object], constraints: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        make(constraints)


def test_a_name_that_is_a_detail_of_another_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"\['size\.cost'\] more than once"):
        _ = SIZE & constraint("size.cost", len, at_most=3)


class Missing:
    """Like pandas' NA: whatever it is compared with, it refuses to say whether they are equal."""

    def __eq__(self, other: object) -> "Missing":  # type: ignore[override]
        return self

    __ne__ = __eq__  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


def build(rows: Any) -> Constraint:
    return constraint("share", lambda model: float(rows.mean()), at_least=0)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([Missing(), 1], "1 of 2 are None or NaN"),
        (["a", "b", Missing(), Missing()], "2 of 4 are None or NaN"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 1]), "2 of 3 are None or NaN"),
        (np.array(["2020", "NaT"], dtype="M8[Y]"), "1 of 2 are None or NaN"),
        ([(1, 2), 3], "one label per sample"),
        ([{1}, {2}], "must be text or numbers, but are of set"),
        (np.array([1j, 2]), "must be text or numbers"),
        ((label for label in "ab"), "one label per sample"),
    ],
)
def test_groups_are_labels_that_can_be_told_apart(groups: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        by_group(groups, build)


@pytest.mark.parametrize(
    "groups", [[7, 8, 7], np.array([7, 8, 7], dtype=object), (7, 8, 7), np.uint8([7, 8, 7])]
)
def test_groups_may_be_numbers_of_any_kind(groups: Any) -> None:
    assert set(by_group(groups, build)(None).details) >= {"share[7]", "share[8]"}


def test_groups_may_be_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert "share[1]" in by_group(torch.tensor([0, 1, 1]), build)(None).details


def test_a_build_that_returns_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="for the group a it returned NoneType"):
        by_group(["a", "b"], lambda of: None)  # type: ignore[arg-type, return-value]
