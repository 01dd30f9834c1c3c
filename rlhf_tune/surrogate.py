"""A Gaussian process over the lattice: what the measured trials say about the other cells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

MAX_TRIALS = 96
"""More trials than this add little and cost cubic time; the most recent ones are kept."""

_LENGTHS = (0.5, 1.0, 2.0)
_NOISES = (1e-4, 1e-2, 1e-1)


@dataclass(frozen=True)
class Posterior:
    """Marginal posterior at M queries: `mean` [M] and `deviation` [M], in the data's units."""

    mean: Array
    deviation: Array


def posterior(
    positions: Array, values: Array, queries: Array, *, center: float, scale: float
) -> Posterior:
    """The posterior of a Gaussian process with a Matern-5/2 kernel.

    Length scale and noise are the most probable pair of a small grid (marginal likelihood of
    Rasmussen and Williams 2006, eq. 2.30, times a log-normal prior around 1 and 0.01), which
    stays sane with two or three trials where a gradient fit does not.

    Args:
        positions: [T, D] coordinates of the trials, in length scales.
        values: [T] what was measured there.
        queries: [M, D] coordinates to predict at.
        center: The prior mean, in the units of `values`.
        scale: The prior standard deviation, in the same units.
    """
    recent = slice(-MAX_TRIALS, None)
    positions, targets = positions[recent], (values[recent] - center) / scale
    between, towards = _distance(positions, positions), _distance(positions, queries)
    fits = [
        _fit(between, targets, length, noise)
        for length, noise in itertools.product(_LENGTHS, _NOISES)
    ]
    best = max(fits, key=lambda fit: fit.evidence)
    cross = _matern(towards / best.length)
    mean = cross.T @ best.weights
    variance = 1.0 - (cross * cho_solve(best.factor, cross)).sum(axis=0)
    return Posterior(center + scale * mean, scale * np.sqrt(np.maximum(variance, 1e-12)))


@dataclass(frozen=True)
class _Fit:
    length: float
    factor: tuple[Array, bool]
    weights: Array
    evidence: float


def _fit(distance: Array, targets: Array, length: float, noise: float) -> _Fit:
    covariance = _matern(distance / length) + noise * np.eye(len(targets))
    factor = cho_factor(covariance, lower=True)
    weights = cho_solve(factor, targets)
    log_determinant = 2 * np.log(np.diag(factor[0])).sum()
    log_prior = -0.5 * np.log2(length) ** 2 - 0.1 * np.log10(noise / 1e-2) ** 2
    evidence = log_prior - 0.5 * (targets @ weights + log_determinant)
    return _Fit(length, factor, weights, float(evidence))


def _distance(a: Array, b: Array) -> Array:
    return np.asarray(cdist(a, b))


def _matern(distance: Array) -> Array:
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
