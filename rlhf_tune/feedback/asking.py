"""What to ask next, what need not be asked, and how much more there is to ask."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, ndtr

from rlhf_tune.feedback.reward_model import RewardModel

Array = NDArray[np.float64]
Pair = tuple[int, int]

SURE = 0.95
"""From this probability on a pair is labelled by the model."""

# Not tuned:
_REPEAT = 10  # each so many questions one is an earlier one, the other way round ...
_FIRST = 20  # ... but none of the first, all of which the order of the outcomes needs
_MOST = 4000  # pairs that are weighed; of more, some are drawn
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(15)


def information(mean: Array, deviation: Array) -> Array:
    """[N] what an answer is expected to tell of the utilities, in nats.

    Source: Houlsby et al. (2011), arXiv:1112.5745, by quadrature.

    Args:
        mean: [N] of the difference of two utilities.
        deviation: [N] its standard deviation.
    """
    shares = _SHARES / _SHARES.sum()
    p = expit(mean[:, None] + deviation[:, None] * _NODES)
    total = p @ shares
    within = (entr(p) + entr(1 - p)) @ shares
    return np.asarray(entr(total) + entr(1 - total) - within)


def next_pair(
    model: RewardModel,
    outcomes: Array,
    asked: Sequence[Pair],
    rng: np.random.Generator,
    *,
    labelled: Iterable[Pair] = (),
    repeats: bool = True,
    context: str = "",
) -> Pair | None:
    """The pair (left, right) of rows of `outcomes` [T, D] whose comparison tells most.

    Sides are drawn. None where every pair was asked.

    Args:
        model: Fitted, to the outcomes alone where nothing was asked yet.
        outcomes: Of all items.
        asked: The earlier questions, in order.
        rng: Draws sides, and the pairs to weigh where there are very many.
        labelled: Pairs that need not be asked.
        repeats: Whether each tenth question, after the first twenty, repeats an earlier one the
            other way round, to see how far answers can be trusted.
        context: Of use.
    """
    if repeats and len(asked) > _FIRST and len(asked) % _REPEAT == _REPEAT - 1:
        left, right = asked[int(rng.integers(len(asked)))]
        return right, left
    known = {frozenset(pair) for pair in (*asked, *labelled)}
    i, j = np.triu_indices(len(outcomes), 1)
    if len(i) > _MOST:
        some = rng.choice(len(i), _MOST, replace=False)
        i, j = i[some], j[some]
    new = np.array(
        [frozenset(pair) not in known for pair in zip(i.tolist(), j.tolist(), strict=True)]
    )
    i, j = i[new], j[new]
    if not len(i):
        return None
    best = int(information(*model.difference(outcomes[i], outcomes[j], context=context)).argmax())
    pair = int(i[best]), int(j[best])
    return pair if rng.random() < 0.5 else pair[::-1]


def next_group(
    model: RewardModel,
    outcomes: Array,
    asked: Sequence[Pair],
    rng: np.random.Generator,
    size: int,
    *,
    labelled: Iterable[Pair] = (),
    context: str = "",
) -> tuple[int, ...] | None:
    """The rows of `outcomes` [T, D], `size` at most, whose ranking tells most.

    The pair that tells most, and, one by one, whatever tells most beside those that are there.
    Their order is drawn. None where every pair was asked. Arguments are those of `next_pair`.
    """
    pair = next_pair(model, outcomes, asked, rng, labelled=labelled, repeats=False, context=context)
    if pair is None:
        return None
    told, group = np.zeros(len(outcomes)), list(pair)
    for number in range(min(size, len(outcomes))):
        if number >= len(pair):
            told[group] = -1.0
            group.append(int(told.argmax()))
        beside = np.repeat(outcomes[[group[number]]], len(outcomes), axis=0)
        told += information(*model.difference(outcomes, beside, context=context))
    return tuple(rng.permutation(group).tolist())


def sure_answers(
    model: RewardModel, a: Array, b: Array, *, sure: float = SURE, context: str = ""
) -> Array:
    """[N] the model's own answers, 1 or 0, to pairs of which it is sure; NaN where people decide.

    Such labels spare people's time; a model must not learn from them, since it would only grow
    surer.
    """
    p = model.probability(a, b, context=context)
    return np.where(np.maximum(p, 1 - p) > sure, np.round(p), np.nan)


def expected_accuracy(model: RewardModel, outcomes: Array, *, context: str = "") -> float:
    """How many of all pairs of outcomes [T, D] the model is expected to order rightly."""
    mean, deviation = _differences(model, outcomes, context)
    return float(ndtr(np.abs(mean) / np.maximum(deviation, 1e-12)).mean())


def more_needed(
    model: RewardModel,
    outcomes: Array,
    answered: int,
    *,
    accuracy: float = 0.95,
    context: str = "",
) -> int | None:
    """About how many more comparisons bring the expected accuracy to `accuracy`.

    It supposes that deviations fall with the root of the number of answers. None where 1,000 more
    would not do.
    """
    mean, deviation = _differences(model, outcomes, context)
    for more in range(1001):
        shrunk = deviation * math.sqrt(max(answered, 1) / (max(answered, 1) + more))
        if ndtr(np.abs(mean) / np.maximum(shrunk, 1e-12)).mean() >= accuracy:
            return more
    return None


def _differences(model: RewardModel, outcomes: Array, context: str) -> tuple[Array, Array]:
    i, j = np.triu_indices(len(outcomes), 1)
    if len(i) > _MOST:
        some = np.linspace(0, len(i) - 1, _MOST).astype(np.int64)
        i, j = i[some], j[some]
    return model.difference(outcomes[i], outcomes[j], context=context)
