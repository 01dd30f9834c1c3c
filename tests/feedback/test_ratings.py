"""Ratings as comparisons."""

import numpy as np
import pytest

from rlhf_tune.feedback.judgements import Judgement
from rlhf_tune.feedback.ratings import compared, comparisons


def test_two_deviations_apart_are_a_preference_of_98_percent() -> None:
    (found,) = compared([("ada", 3, 1.0), ("ada", 7, 9.0)])
    assert (found.left.tolist(), found.right.tolist()) == ([3], [7])
    assert found.answers[0] == pytest.approx(1 / (1 + np.exp(4)))


def test_the_scale_that_a_person_uses_does_not_matter() -> None:
    grades = np.random.default_rng(0).normal(size=6)
    first, second = (
        next(compared(("ada", n, float(g)) for n, g in enumerate(scale)))
        for scale in (grades, 100 + 0.01 * grades)
    )
    assert first.answers == pytest.approx(second.answers)


def test_ratings_of_different_people_are_not_compared() -> None:
    assert list(compared([("ada", 0, 1.0), ("ben", 1, 9.0)])) == []
    both = [(who, item, float(item)) for who in ("ada", "ben") for item in range(3)]
    assert [len(of.left) for of in compared(both)] == [3, 3]


def test_so_many_ratings_count_as_so_many_answers() -> None:
    (found,) = compared(("ada", n, float(n)) for n in range(9))
    assert found.weight * len(found.left) == pytest.approx(9)


def test_the_same_for_all_says_they_are_equal_and_of_repeated_ones_the_mean_counts() -> None:
    (equal,) = compared([("ada", 0, 5.0), ("ada", 1, 5.0)])
    assert equal.answers.tolist() == [0.5]
    (found,) = compared([("ada", 0, 2.0), ("ada", 1, 5.0), ("ada", 0, 8.0)])
    assert found.left.tolist() == [0]
    assert found.answers.tolist() == [0.5]


def test_comparisons_are_of_all_kinds_and_ratings_only_within_a_use() -> None:
    found = list(
        comparisons(
            [
                Judgement.preferring(4, 2, annotator="ada", context="edge"),
                Judgement("ranking", (1, 2, 3), (0.0, 2.0, 1.0)),
                Judgement("rating", (0,), (9.0,), context="edge"),
                Judgement("rating", (1,), (1.0,), context="edge"),
                Judgement("rating", (2,), (1.0,), context="server"),
                Judgement("skip", (5, 6)),
            ]
        )
    )
    assert found[0] == ("ada", "edge", 4, 2, 1.0, 1.0)
    assert [told[2:5] for told in found[1:4]] == [(1, 2, 0.0), (1, 3, 0.0), (2, 3, 1.0)]
    ((who, context, left, right, answer, often),) = found[4:]
    assert (who, context, left, right, often) == ("anonymous", "edge", 0, 1, 2.0)
    assert answer > 0.95
