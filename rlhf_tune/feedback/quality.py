"""How far judgements can be trusted: agreement, repetition, order and reliability."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.choice import fit_annotators
from rlhf_tune.feedback.judgements import MODEL, Judgement

Array = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval", "ratio"]
LEVELS = ("nominal", "ordinal", "interval", "ratio")


def krippendorff_alpha(ratings: ArrayLike, level: Level = "nominal") -> float:
    """Agreement among annotators: 1 is perfect, 0 that of chance, below 0 systematic disagreement.

    Source: Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability".

    Args:
        ratings: [annotators, units] numbers; NaN where a unit was not rated.
        level: Of measurement: how far apart two values are.

    Returns:
        NaN where nothing was rated twice, or all values are equal: then nothing can be said.

    Raises:
        InvalidInputError: If `ratings` has not two axes, the level is unknown, or a ratio is asked
            of negative numbers.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or level not in LEVELS:
        raise InvalidInputError(
            f"`ratings` must be [annotators, units] and `level` one of {list(LEVELS)}, but got "
            f"shape {table.shape} and {level!r}"
        )
    if np.isinf(table).any() or (level == "ratio" and (table < 0).any()):
        raise InvalidInputError("ratings must be finite, and at least 0 for the level 'ratio'")
    paired = (~np.isnan(table)).sum(axis=0) >= 2
    values = np.unique(table[:, paired][~np.isnan(table[:, paired])])
    counts = np.array([(table[:, paired] == v).sum(axis=0) for v in values])  # [values, units]
    if len(values) < 2:
        return math.nan
    together = (counts / (counts.sum(axis=0) - 1)) @ counts.T
    together -= np.diag((counts / (counts.sum(axis=0) - 1)).sum(axis=1))
    totals = together.sum(axis=1)
    apart = _squared_distances(values, totals, level)
    observed = (together * apart).sum()
    expected = (np.outer(totals, totals) * apart).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)


def _squared_distances(values: Array, totals: Array, level: Level) -> Array:
    """[values, values] how far apart values are, squared."""
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "ordinal":  # so many ratings lie between, half of those at both ends included
        ranks = np.cumsum(totals) - totals / 2
        return np.asarray((ranks[:, None] - ranks) ** 2)
    apart = values[:, None] - values
    if level == "interval":
        return np.asarray(apart**2)
    sums = values[:, None] + values
    return np.asarray((apart / np.where(sums == 0, 1, sums)) ** 2)


@dataclass(frozen=True)
class Quality:
    """How far a set of judgements can be trusted; NaN where there is nothing to judge by.

    Attributes:
        judgements: Of people, skipped ones included.
        minutes: That people spent.
        redundancy: Share of the compared pairs that were compared more than once.
        repeated: Share of the comparisons that a person made again in which the answer was the
            same.
        flipped: The same, of those shown the other way round; well below `repeated`, it is the side
            that decides.
        left: Share of the decided comparisons in which the left one won; .5 is right.
        intransitive: Share of the fully compared triples that go round in a circle; a
            quarter is that of coins.
        alpha: Krippendorff's, over annotators, of which one of a pair is preferred.
        reliability: Of each annotator (`fit_annotators`).
    """

    judgements: int
    minutes: float
    redundancy: float
    repeated: float
    flipped: float
    left: float
    intransitive: float
    alpha: float
    reliability: dict[Hashable, float]


def quality_of(judgements: Iterable[Judgement]) -> Quality:
    """Judge the judges; labels that a model made are left out."""
    people = [j for j in judgements if j.role != MODEL and j.kind != "undo"]
    shown = [(j.annotator, answer) for j in people for answer in j.answers()]
    counts = Counter(frozenset(answer[:2]) for _, answer in shown)
    same, turned = _repeats(shown)
    decided = [answer[2] for _, answer in shown if answer[2] != 0.5]
    return Quality(
        judgements=len(people),
        minutes=sum(j.seconds for j in people) / 60,
        redundancy=_mean([count > 1 for count in counts.values()]),
        repeated=_mean([*same, *turned]),
        flipped=_mean(turned),
        left=_mean(decided),
        intransitive=_intransitive(answer for _, answer in shown),
        alpha=krippendorff_alpha(_by_annotator(shown)) if shown else math.nan,
        reliability=_reliability(people),
    )


Shown = tuple[str, tuple[int, int, float]]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _canonical(left: int, right: int, answer: float) -> tuple[tuple[int, int], float]:
    return ((left, right), answer) if left < right else ((right, left), 1 - answer)


def _repeats(shown: Sequence[Shown]) -> tuple[list[bool], list[bool]]:
    """Whether each repetition agrees with the first time: shown alike, and the other way round."""
    first: dict[tuple[str, tuple[int, int]], tuple[int, float]] = {}
    alike: list[bool] = []
    turned: list[bool] = []
    for annotator, (left, right, answer) in shown:
        pair, canonical = _canonical(left, right, answer)
        if (annotator, pair) not in first:
            first[annotator, pair] = left, canonical
            continue
        was_left, said = first[annotator, pair]
        (alike if was_left == left else turned).append(said == canonical)
    return alike, turned


def _intransitive(answers: Iterable[tuple[int, int, float]]) -> float:
    """Share of the triples with three decided pairs that go round in a circle."""
    score: dict[tuple[int, int], float] = defaultdict(float)
    for left, right, answer in answers:
        pair, canonical = _canonical(left, right, answer)
        score[pair] += canonical - 0.5
    wins = {(pair if s > 0 else pair[::-1]) for pair, s in score.items() if s != 0}
    items = sorted({item for pair in wins for item in pair})
    beats = np.zeros((len(items), len(items)))
    for winner, loser in wins:
        beats[items.index(winner), items.index(loser)] = 1
    decided = beats + beats.T
    triples = np.trace(decided @ decided @ decided) / 6
    circles = np.trace(beats @ beats @ beats) / 3
    return float(circles / triples) if triples else math.nan


def _by_annotator(shown: Sequence[Shown]) -> Array:
    """[annotators, pairs] which of a pair each preferred, on the mean; NaN without an answer."""
    who = list(dict.fromkeys(annotator for annotator, _ in shown))
    found: dict[tuple[str, tuple[int, int]], list[float]] = defaultdict(list)
    for annotator, answer in shown:
        pair, canonical = _canonical(*answer)
        found[annotator, pair].append(canonical)
    pairs = sorted({pair for _, pair in found})
    table = np.full((len(who), len(pairs)), np.nan)
    for (annotator, pair), values in found.items():
        table[who.index(annotator), pairs.index(pair)] = np.sign(np.mean(values) - 0.5)
    return table


def _reliability(people: Sequence[Judgement]) -> dict[Hashable, float]:
    pairs = [(j.annotator, i, k) for j in people for i, k, weight in j.pairs() if weight == 1]
    numbers = {item: n for n, item in enumerate(sorted({x for _, *two in pairs for x in two}))}
    triples: list[tuple[Any, int, int]] = [(who, numbers[i], numbers[k]) for who, i, k in pairs]
    return fit_annotators(len(numbers), triples).reliability if triples else {}


def weights_by_annotator(judgements: Sequence[Judgement]) -> dict[Hashable, float]:
    """How often each annotator's answers count: the reliability, at least 0 and at most 1.

    A single annotator counts once, since nobody is there to compare with.
    """
    people = [j for j in judgements if j.role != MODEL]
    names = dict.fromkeys(j.annotator for j in people)
    if len(names) < 2:
        return dict.fromkeys(names, 1.0)
    reliability = _reliability(people)
    return {who: float(np.clip(value, 0.0, 1.0)) for who, value in reliability.items()}
