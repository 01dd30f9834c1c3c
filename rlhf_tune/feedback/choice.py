"""Bradley-Terry: utilities of items from comparisons, and how far each annotator can be trusted.

P(i preferred to j) = sigmoid(u_i - u_j). Source: Bradley and Terry (1952),
doi:10.1093/biomet/39.3-4.324.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.feedback.laplace import posterior

Array = NDArray[np.float64]

_ROUNDS = 50
_ENOUGH = 1e-4


def bradley_terry(
    n_items: int,
    pairs: Sequence[tuple[int, int]],
    *,
    alpha: float = 0.1,
    weights: Sequence[float] | None = None,
) -> Array:
    """The utilities [n_items] that explain comparisons best; their mean is 0.

    The penalty `alpha` x (the sum of squares), as in choix, keeps the utilities of items finite
    that never lost, never won or were never compared; contradictions and cycles average out.

    Args:
        n_items: How many items there are.
        pairs: (preferred, rejected) numbers of items; a tie is both ways with half the weight.
        alpha: The penalty, above 0.
        weights: How often each pair counts; once by default.

    Raises:
        InvalidInputError: If an item is not of range(n_items) or is compared with itself, or
            `alpha` is not above 0.
    """
    first, second = _checked(n_items, pairs)
    if not alpha > 0:
        raise InvalidInputError(f"alpha > 0 must hold, but got alpha={alpha}")
    counts = np.ones(len(first)) if weights is None else np.asarray(weights, dtype=np.float64)
    if counts.shape != first.shape or not (np.isfinite(counts) & (counts >= 0)).all():
        raise InvalidInputError(
            f"`weights` must be {len(first)} numbers of at least 0, one a pair, but got {weights}"
        )
    prior = 2 * alpha * np.eye(n_items)
    return posterior(_rows(n_items, first, second), np.ones(len(first)), prior, counts).mean


@dataclass(frozen=True, eq=False)
class Annotators:
    """What comparisons by several annotators say together.

    Attributes:
        utilities: [N] of the items; their mean is 0.
        reliability: Of each annotator: 1 is usual, 0 flips coins, below 0 answers the wrong way.
    """

    utilities: Array
    reliability: dict[Hashable, float]


def fit_annotators(
    n_items: int, triples: Sequence[tuple[Hashable, int, int]], *, alpha: float = 0.1
) -> Annotators:
    """Utilities and annotators' reliabilities b, of P(i preferred) = sigmoid(b (u_i - u_j)).

    Both are the most probable ones, in turns; the prior of b is normal around 1 with deviation
    1, so that most annotators are taken to mean what they say. Source: Chen et al. (2013),
    doi:10.1145/2433396.2433420, with a signed scale in place of a probability.

    Args:
        n_items: How many items there are.
        triples: (annotator, preferred, rejected).
        alpha: As in `bradley_terry`.

    Raises:
        InvalidInputError: As `bradley_terry` does.
    """
    first, second = _checked(n_items, [(i, j) for _, i, j in triples])
    if not alpha > 0:
        raise InvalidInputError(f"alpha > 0 must hold, but got alpha={alpha}")
    names = list(dict.fromkeys(name for name, _, _ in triples))
    who = np.array([names.index(name) for name, _, _ in triples], dtype=np.int64)
    rows, once = _rows(n_items, first, second), np.ones(len(first))
    scale, utilities = np.ones(len(names)), np.zeros(n_items)
    for _ in range(_ROUNDS):
        prior = 2 * alpha * np.eye(n_items)
        utilities = posterior(rows * scale[who, None], once, prior, once).mean
        before, margins = scale, (rows @ utilities)[:, None]
        scale = np.array([_scale(margins[who == k]) for k in range(len(names))])
        if np.abs(scale - before).max(initial=0.0) < _ENOUGH:
            break
    return Annotators(utilities, dict(zip(names, scale.tolist(), strict=True)))


def _scale(margins: Array) -> float:
    """The most probable b of one annotator, whose answers had these margins [N, 1]."""
    once = np.ones(len(margins))
    return float(posterior(margins, once, np.eye(1), once, center=1.0).mean[0])


def _checked(
    n_items: int, pairs: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and the second items [N] of pairs."""
    items = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    wrong = ((items < 0) | (items >= n_items)).any(axis=1) | (items[:, 0] == items[:, 1])
    if wrong.any():
        raise InvalidInputError(
            f"a pair must be two different items of range({n_items}), but got "
            f"{tuple(items[wrong][0].tolist())}"
        )
    return items[:, 0], items[:, 1]


def _rows(n_items: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    """[N, n_items] 1 at the first item and -1 at the second."""
    rows = np.zeros((len(first), n_items))
    rows[np.arange(len(first)), first] = 1.0
    rows[np.arange(len(first)), second] = -1.0
    return rows
