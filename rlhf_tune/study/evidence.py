"""How well the surfaces of a prior explain the trials of a study.

Surfaces and trials are whitened: multiplied by the inverse of the Cholesky factor of the trials'
covariance, so that what one of them leaves unexplained is a sum of squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.prior import Prior
from rlhf_tune.study.process import OFFSET, Assumption, Points, Seen, correlations, solve

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# That noise, scale and surface are weighed was chosen on validation tasks, these figures were not
# tuned.
_DEGREES = 3.0  # how many residuals the scale is worth, in the Student-t evidence
_RESEMBLING = 64  # surfaces that are weighed in full ...
_EARLY = 24  # ... chosen by so many of the trials


def log_odds(prior: Prior, assumptions: Sequence[Assumption], white: Array, scales: Array) -> Array:
    """[A, S, K] of A assumptions, S scales and K surfaces; `white` [A, T, 1 + K].

    The first column of `white` is the values', whitened as the surfaces are.
    """
    noises = np.array([assumed.noise for assumed in assumptions]) / prior.noise
    lowers = np.array([assumed.lower for assumed in assumptions])
    apart = np.log(np.diagonal(lowers, axis1=1, axis2=2)).sum(axis=1) + 0.1 * np.log10(noises) ** 2
    values, surfaces = white[:, None, :, 0], white[:, :, 1:]
    explained = evidence(
        white.shape[1],
        (values**2).sum(axis=2)[..., None],
        values @ surfaces,
        (surfaces**2).sum(axis=1, keepdims=True),
        scales[:, None],
    )
    return np.asarray(explained - apart[:, None, None])


def evidence(trials: int, values: Array, both: Array, surfaces: Array, scales: Array) -> Array:
    """[...] the logarithm of a Student-t evidence, but for the determinant of the covariance.

    Args:
        trials: T, their number.
        values: [...] v.v, of whitened values v [T].
        both: [...] v.s, with a whitened surface s [T].
        surfaces: [...] s.s.
        scales: [...] b, by which v is b s.
    """
    squares = np.maximum(values / scales**2 - 2 * both / scales + surfaces, 0)
    degrees = 0.5 * (_DEGREES + trials)
    return np.asarray(-max(trials - 1, 0) * np.log(scales) - degrees * np.log1p(squares / _DEGREES))


def best_scales(trials: int, values: float, both: Array, surfaces: Array) -> Array:
    """[K] the scale at which each surface has the largest evidence; arguments as there.

    Its derivative by u = 1 / b is 0 at the positive root of a quadratic.
    """
    a = (_DEGREES + 1) * max(values, 1e-300)
    b = (trials - 2 - _DEGREES) * both
    c = max(trials - 1, 0) * (_DEGREES + surfaces)
    u = (np.sqrt(b**2 + 4 * a * c) - b) / (2 * a)
    return np.asarray(1 / np.maximum(u, 1e-300))


def resembling(trials: Seen, values: Array, scales: Array) -> tuple[Indices, float]:
    """The surfaces that explain the first trials best, at one assumption about g and noise.

    And the probability that it is one of them.
    """
    prior = trials.prior
    if len(prior.log_weights) <= _RESEMBLING:
        return np.arange(len(prior.log_weights)), 1.0
    lower, surfaces = _whitened(_First.of(prior, trials.points[:_EARLY]))
    white = solve(lower, values[:_EARLY])
    both, squares = white @ surfaces, (surfaces**2).sum(axis=0)
    best = best_scales(len(white), float(white @ white), both, squares)
    within = np.clip(best, scales.min(), scales.max())
    odds = evidence(len(white), white @ white, both, squares, within) + prior.log_weights
    found = largest(odds, _RESEMBLING)
    return found, math.exp(log_sum(odds[found]) - log_sum(odds))


@dataclass(frozen=True)
class _First:
    """The first points of a study, which its later suggestions begin with too."""

    prior: Prior
    key: bytes
    points: Points = field(compare=False)

    @classmethod
    def of(cls, prior: Prior, points: Points) -> _First:
        places = points.places
        parts = (points.features, points.others, places.nodes, places.shares)
        return cls(prior, b"|".join(part.tobytes() for part in parts), points)


@lru_cache(maxsize=4)
def _whitened(first: _First) -> tuple[Array, Array]:
    """The Cholesky factor [T, T] of T points, and all surfaces [T, P] there, whitened by it.

    Row by row, from those of the points before: a trial more costs a row more.
    """
    prior, points = first.prior, first.points
    if not len(points):
        return np.zeros((0, 0)), np.zeros((0, len(prior.log_weights)))
    before, last = Seen(prior, points[:-1]), Seen(prior, points[-1:])
    lower, white = _whitened(_First.of(prior, before.points))
    middle = float(np.exp(np.log(prior.generic).mean()))
    row = solve(lower, _covariance(before, last, middle))[:, 0]
    rest = math.sqrt(float(_covariance(last, last, middle)[0, 0]) + prior.noise - float(row @ row))
    surfaces = (prior.means_at(last.points.places)[0] - row @ white) / rest
    bordered = np.block([[lower, np.zeros((len(row), 1))], [row, np.array([rest])]])
    return bordered, np.vstack([white, surfaces])


def _covariance(a: Seen, b: Seen, variance: float) -> Array:
    learned, generic = correlations(a, b)
    return learned + variance * generic + OFFSET


def largest(values: Array, n: int) -> Indices:
    """The indices of the n largest of values [N], the largest first."""
    n = min(n, len(values))
    found = np.argpartition(values, len(values) - n)[len(values) - n :]
    return found[np.argsort(-values[found], kind="stable")]


def log_sum(logarithms: Array) -> float:
    """log(sum(exp(.))); SciPy's takes ten times as long for arrays of this size."""
    top = float(logarithms.max())
    return top + math.log(float(np.exp(logarithms - top).sum()))
