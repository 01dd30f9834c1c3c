"""Membership leakage: which samples are evidence of it."""

from typing import Any

import numpy as np
import pytest

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety import MembershipLeakage

pytestmark = pytest.mark.usefixtures("fakes_are_classifiers")


class Scorer:
    """A two-class model whose score of class 0 is its first input."""

    link: str | None = "logit"

    def outputs(self, x: Any) -> Any:
        return np.stack([x[:, 0], np.zeros(len(x))], axis=1).astype(np.float64)


RNG = np.random.default_rng(5)
IN, OUT = RNG.random((150, 3)), RNG.random((150, 3))
Y = np.zeros(150, dtype=int)


def made(members: Any = (IN, Y), holdout: Any = (OUT, Y), **arguments: Any) -> MembershipLeakage:
    return MembershipLeakage(members, holdout, **{"at_most": 0.2, **arguments})


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_members_within_the_holdout_are_refused_at_any_precision(kind: str) -> None:
    mixed = np.concatenate([OUT, IN[7:11].astype(kind)])
    with pytest.raises(InvalidInputError, match=r"4 of 154 .* leave them out"):
        made((IN.astype(kind), Y), (mixed, np.zeros(154, dtype=int)))


def test_a_member_under_another_label_is_a_member() -> None:
    with pytest.raises(InvalidInputError, match="150 of 150"):
        made((IN, Y), (IN, Y + 1))


def test_copies_are_no_further_evidence() -> None:
    once = made()(Scorer())
    twice = made((np.repeat(IN, 3, axis=0), np.repeat(Y, 3)), (np.tile(OUT, (2, 1)), np.tile(Y, 2)))
    found = twice(Scorer())
    assert (found.n, found.interval, found.value) == (once.n, once.interval, once.value)
    assert found.details == once.details
    assert "450 are equal to others and count once" in found.notes[0]
    assert not once.notes


def test_a_hundred_copies_of_a_few_are_too_few() -> None:
    few = np.tile(OUT[:5], (100, 1)), np.zeros(500, dtype=int)
    with pytest.raises(TooFewSamplesError, match=r"at least 17 samples .* but there are 5"):
        made(holdout=few)


@pytest.mark.parametrize("pair", [None, 3, IN, (IN, Y, Y), (IN,)])
def test_both_sides_are_pairs(pair: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"`members` must be a pair \(x, y\)"):
        made(members=pair)
    with pytest.raises(InvalidInputError, match=r"`holdout` must be a pair \(x, y\)"):
        made(holdout=pair)


def test_no_sample_shows_that_nothing_leaks() -> None:
    with pytest.raises(TooFewSamplesError, match="no number of samples certifies at_most=0"):
        made(at_most=0)
    with pytest.raises(InvalidInputError, match="`at_most` must"):
        made(at_most="1%")


def test_a_name_is_kept_in_reasons_and_details_of_a_conjunction() -> None:
    both = (made(name="night") & made(name="day", at_most=0.9))(Scorer())
    assert {"night.member_accuracy", "day.cost"} <= set(both.details)
    assert made(name="night")(Scorer()).name == "night"
