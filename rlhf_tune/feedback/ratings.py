"""Ratings as comparisons: what one person gave to several items says which of them are better."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rlhf_tune.feedback.judgements import Judgement

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_WORTH = 2.0  # how much utility a person's deviation of ratings is worth; not tuned


@dataclass(frozen=True, eq=False)
class Compared:
    """The ratings of one person, each compared with every other.

    Attributes:
        who: The person.
        left: [P] items.
        right: [P] those that they are compared with.
        answers: [P] how likely the left one is preferred.
        weight: How often each of the comparisons counts.
    """

    who: Hashable
    left: Indices
    right: Indices
    answers: Array
    weight: float


def compared(ratings: Iterable[tuple[Hashable, int, float]]) -> Iterator[Compared]:
    """Ratings as comparisons, for each person who rated two items or more.

    People use scales in different ways, so ratings count by the deviation of all that one person
    gave; twice that makes a preference of probability .98. n ratings make n (n - 1) / 2 pairs,
    which tell no more than n answers do, and count as those. Of an item that somebody rated more
    than once the mean counts.

    Args:
        ratings: (who, item, grade), the larger the better.
    """
    given: dict[Hashable, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for who, item, grade in ratings:
        given[who][item].append(grade)
    for who, of in given.items():
        items = np.array(list(of), dtype=np.int64)
        grades = np.array([np.mean(each) for each in of.values()])
        if len(items) > 1:
            i, j = np.triu_indices(len(items), 1)
            answers = expit(_WORTH * (grades[i] - grades[j]) / (grades.std() or 1.0))
            yield Compared(who, items[i], items[j], answers, 2 / (len(items) - 1))


def comparisons(
    judgements: Sequence[Judgement],
) -> Iterator[tuple[str, str, int, int, float, float]]:
    """(annotator, context, left, right, answer, how often it counts) of all that was judged.

    Ratings are compared with those of the same person for the same use.
    """
    for j in judgements:
        for left, right, answer in j.answers():
            yield j.annotator, j.context, left, right, answer, 1.0
    for who in dict.fromkeys((j.annotator, j.context) for j in judgements if j.kind == "rating"):
        mine = [j for j in judgements if j.kind == "rating" and (j.annotator, j.context) == who]
        given = [(who, *told) for j in mine for told in zip(j.items, j.grades, strict=True)]
        for of in compared(given):
            sides = of.left.tolist(), of.right.tolist(), of.answers.tolist()
            for left, right, answer in zip(*sides, strict=True):
                yield *who, left, right, answer, of.weight
