"""A Gaussian process over the lattice: what the measured trials say about the other cells."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
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


@dataclass(frozen=True)
class Surrogate:
    """A Gaussian process with a Matern-5/2 kernel, conditioned on T trials.

    Attributes:
        noise: The variance of a measurement's noise, as a share of the prior variance.
    """

    _positions: Array
    _targets: Array
    _length: float
    noise: float
    _factor: tuple[Array, bool]
    _center: float
    _scale: float

    def predict(self, queries: Array, *, noisy: bool = False) -> Posterior:
        """The posterior at positions [M, E], with or without the noise of a measurement."""
        cross = _matern(cdist(self._positions, queries) / self._length)
        mean = cross.T @ cho_solve(self._factor, self._targets)
        variance = 1.0 - (cross * cho_solve(self._factor, cross)).sum(axis=0)
        deviation = np.sqrt(np.maximum(variance, 1e-12) + self.noise * noisy)
        return Posterior(self._center + self._scale * mean, self._scale * deviation)

    @property
    def residuals(self) -> Array:
        """[T] how far each trial was from what the trials before it predicted, in deviations.

        By the chain rule these are the targets whitened by the Cholesky factor; their squares
        sum to the exponent of the marginal likelihood.
        """
        return self.whiten(self._targets)

    def whiten(self, columns: Array) -> Array:
        """Columns [T] or [T, N] of values at the trials, decorrelated by the covariance."""
        return np.asarray(solve_triangular(self._factor[0], columns, lower=True))

    @property
    def log_determinant(self) -> float:
        """Of the covariance of the targets, in prior variances."""
        return 2 * float(np.log(np.diag(self._factor[0])).sum())


def fit(positions: Array, values: Array, *, center: float, scale: float) -> Surrogate:
    """Condition on what was measured.

    Length scale and noise are the most probable pair of a small grid (marginal likelihood of
    Rasmussen and Williams 2006, eq. 2.30, times a log-normal prior around 1 and 0.01), which
    stays sane with two or three trials where a gradient fit does not.

    Args:
        positions: [T, E] where the trials are, in length scales; T >= 1.
        values: [T] what was measured there.
        center: The prior mean, in the units of `values`.
        scale: The prior standard deviation, in the same units.
    """

    def log_posterior(candidate: Surrogate) -> float:
        length, noise = candidate._length, candidate.noise
        log_prior = -0.5 * np.log2(length) ** 2 - 0.1 * np.log10(noise / 1e-2) ** 2
        quadratic = float(candidate.residuals @ candidate.residuals)
        return float(log_prior - 0.5 * (quadratic + candidate.log_determinant))

    candidates = [
        condition(positions, values, center=center, scale=scale, length=length, noise=noise)
        for length, noise in itertools.product(_LENGTHS, _NOISES)
    ]
    return max(candidates, key=log_posterior)


def condition(
    positions: Array, values: Array, *, center: float, scale: float, length: float, noise: float
) -> Surrogate:
    """Condition with a given kernel; arguments as those of `fit`, but T may be 0.

    Args:
        positions: [T, E]
        values: [T]
        center: The prior mean.
        scale: The prior standard deviation.
        length: The length scale.
        noise: The variance of a measurement's noise, as a share of the prior variance.
    """
    positions, values = positions[-MAX_TRIALS:], values[-MAX_TRIALS:]
    targets = (values - center) / scale
    covariance = _matern(cdist(positions, positions) / length) + noise * np.eye(len(targets))
    factor = cho_factor(covariance, lower=True)
    return Surrogate(positions, targets, length, noise, factor, center, scale)


def _matern(distance: Array) -> Array:
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
