"""A Gaussian process over the lattice: what the measured trials say about the other cells.

    v(x) = a + b (f(x) + noise),    f ~ a prior learned from other tasks, plus a generic process

The offset `a` is unknown, and so is the scale `b`: a study's results may be losses, accuracies or
anything else, in any unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.spatial.distance import cdist

from rlhf_tune.history import History
from rlhf_tune.prior import Prior, axis_of
from rlhf_tune.space import Lattice

Array = NDArray[np.float64]

MAX_TRIALS = 96
"""More trials than this add little and cost cubic time; the most recent ones are kept."""

_NOISES = (0.3, 1.0, 3.0)  # relative to the prior's
_SCALES = np.geomspace(0.5, 32, 13)  # relative to the spread of the results
_OFFSET = 100.0  # prior variance of the offset, in squared scales: as good as flat
_SHARED = 0.5  # of the learned surface: what does not depend on the other parameters
_DEGREES = 3.0  # how many residuals the scale is worth, in the Student-t evidence


@dataclass(frozen=True)
class Points:
    """M places as the process sees them.

    Attributes:
        mean: [M] the prior's mean.
        factors: [M, R] the prior's factors.
        features: [M, E] all parameters, in length scales.
        others: [M, O] those that the learned prior does not know, in length scales.
    """

    mean: Array
    factors: Array
    features: Array
    others: Array

    def __len__(self) -> int:
        return len(self.mean)

    def last(self, n: int) -> Points:
        """The last `n` of them."""
        parts = (self.mean, self.factors, self.features, self.others)
        return Points(*(part[-n:] for part in parts))


def points_of(history: History, prior: Prior, rows: NDArray[np.int64]) -> Points:
    """Trials `rows` [M] of a history."""
    return _points(prior, history.lattice, history.positions[rows], history.features()[rows])


def points_at(history: History, prior: Prior, cells: NDArray[np.int64], row: int) -> Points:
    """Cells [M, D] of the lattice, with the unordered values of trial `row`."""
    positions = history.lattice.positions(cells)
    return _points(prior, history.lattice, positions, history.candidate_features(cells, row))


def _points(prior: Prior, lattice: Lattice, positions: Array, features: Array) -> Points:
    mean, factors = prior.at(lattice, positions)
    learned = {axis_of(lattice, "learning_rate"), axis_of(lattice, "batch_size")}
    others = [column for column in range(features.shape[1]) if column not in learned]
    return Points(mean, factors, features, features[:, others])


@dataclass(frozen=True)
class Posterior:
    """Marginal posterior at M queries: `mean` [M] and `deviation` [M], in the data's units."""

    mean: Array
    deviation: Array


@dataclass(frozen=True)
class Surrogate:
    """The process, conditioned on T trials.

    Attributes:
        noise: The variance of a measurement, in squared scales.
        scale: b, the size of the learned surface in the data's units.
        center: The mean of the data.
        residuals: [T] how far each trial was from what the trials before it predicted, in
            deviations. By the chain rule these are the targets whitened by the Cholesky factor of
            their covariance. The first is about 0, since the offset is unknown.
    """

    prior: Prior
    noise: float
    scale: float
    center: float
    residuals: Array
    _points: Points
    _factor: tuple[Array, bool]
    _solved: Array

    def predict(self, queries: Points, *, noisy: bool = False) -> Posterior:
        """The posterior at queries, with or without the noise of a measurement."""
        cross = _covariance(self.prior, self._points, queries)
        mean = queries.mean + cross.T @ self._solved
        explained = (cross * cho_solve(self._factor, cross)).sum(axis=0)
        variance = np.maximum(_variance(self.prior, queries) - explained, 1e-10)
        deviation = np.sqrt(variance + self.noise * noisy)
        return Posterior(self.center + self.scale * mean, self.scale * deviation)

    def covariance(self, queries: Points) -> Array:
        """The joint posterior covariance [M, M] at queries, in the data's units squared."""
        cross = _covariance(self.prior, self._points, queries)
        prior = _covariance(self.prior, queries, queries)
        return np.asarray(self.scale**2 * (prior - cross.T @ cho_solve(self._factor, cross)))


def fit(
    prior: Prior, points: Points, values: Array, *, scales: Sequence[float] | None = None
) -> Surrogate:
    """Condition on what was measured; noise and scale are the most probable pair of a grid.

    Args:
        prior: What is known from other tasks.
        points: [T] where the trials are; T may be 0 if `scales` are given.
        values: [T] what was measured there, larger is better.
        scales: The candidates for b, in the units of `values`; by default such that the spread
            of the results is a sixteenth to twice the gap between useless and best.
    """
    points, values = points.last(MAX_TRIALS), values[-MAX_TRIALS:]
    center, spread = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    candidates = np.array(_SCALES * (spread or 1.0) if scales is None else scales)
    covariance = _covariance(prior, points, points)
    tried = [
        _condition(prior, points, values - center, candidates, covariance, times * prior.noise)
        for times in _NOISES
    ]
    best = max(tried, key=lambda pair: pair[0])[1]
    return replace(best, center=center)


def _condition(
    prior: Prior, points: Points, values: Array, scales: Array, covariance: Array, noise: float
) -> tuple[float, Surrogate]:
    """The best scale at a given noise, with its evidence."""
    factor = cho_factor(covariance + max(noise, 1e-6) * np.eye(len(values)), lower=True)
    lower = np.tril(factor[0])
    white = solve_triangular(lower, np.column_stack([values, points.mean]), lower=True)
    residuals = white[:, :1] / scales - white[:, 1:]
    evidence = (
        -max(len(values) - 1, 0) * np.log(scales)
        - 0.5 * (_DEGREES + len(values)) * np.log1p((residuals**2).sum(axis=0) / _DEGREES)
        - np.log(np.diag(lower)).sum()
        - 0.1 * math.log10(noise / prior.noise) ** 2
    )
    best = int(evidence.argmax())
    chosen = residuals[:, best]
    solved = solve_triangular(lower, chosen, lower=True, trans="T")
    scale = float(scales[best])
    found = Surrogate(prior, noise, scale, 0.0, chosen, points, factor, solved)
    return float(evidence[best]), found


def _covariance(prior: Prior, a: Points, b: Points) -> Array:
    """[M, N] of f plus offset."""
    similar = _SHARED + (1 - _SHARED) * _matern(cdist(a.others, b.others))
    generic = prior.generic * _matern(cdist(a.features, b.features))
    return np.asarray(a.factors @ b.factors.T * similar + generic + _OFFSET)


def _variance(prior: Prior, points: Points) -> Array:
    return np.asarray((points.factors**2).sum(axis=1) + prior.generic + _OFFSET)


def _matern(distance: Array) -> Array:
    """Source: Rasmussen and Williams (2006), eq. 4.17."""
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
