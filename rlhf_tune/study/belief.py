"""Utilities over the parameters, from comparisons alone: a Gaussian process, by Laplace.

Comparisons say how two trials differ and nothing of how good either is, so a move is valued by the
posterior of its difference to the best trial, in which all that is uncertain of both alike cancels.
Source: Chu and Ghahramani (2005), "Preference learning with Gaussian processes", with logistic
noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from rlhf_tune.feedback.laplace import Gaussian, posterior
from rlhf_tune.study.process import Points, matern
from rlhf_tune.study.surrogate import Posterior

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Not tuned but for the optimism, on three drawn bowls:
_SIZES = (1.0, 3.0, 10.0)  # of utilities, beside the noise of an answer; the evidence chooses ...
_LENGTHS = (0.5, 1.0, 2.0)  # ... and by how much length scales differ from those of measurements
_JITTER = 1e-3
_OPTIMISM = 1.0  # deviations; expected improvement is greedy, since the best is uncertain too


@dataclass(frozen=True, eq=False)
class Belief:
    """What comparisons say of any point.

    Attributes:
        features: [T, E] of the compared trials, in length scales.
        utilities: Their posterior.
        inverse: [T, T] of their prior correlation.
        size: Prior deviation of a utility.
        length: In length scales of measurements.
        weights: [1] and
        scales: [1] and `scale`, `noise`: as a mixture of one part has them.
    """

    features: Array
    utilities: Gaussian
    inverse: Array
    size: float
    length: float
    weights: Array = field(default_factory=lambda: np.ones(1))
    scales: Array = field(default_factory=lambda: np.ones(1))
    scale: float = 1.0
    noise: float = 0.0

    def predict(self, queries: Points, *, noisy: bool = False) -> Posterior:
        """The posterior of utilities at M queries; a utility has no noise."""
        _, mean, variance = self._at(queries)
        return Posterior(np.ones(1), mean[None], np.sqrt(variance)[None])

    def covariance(self, queries: Points) -> Array:
        """The joint posterior covariance [M, M] of utilities at queries."""
        near = self._near(queries)
        weights = near @ self.inverse
        among = matern(cdist(queries.features, queries.features) / self.length)
        known = weights @ self.utilities.covariance @ weights.T
        return np.asarray(self.size**2 * (among - weights @ near.T) + known)

    def gain(self, queries: Points) -> Array:
        """[M] what M queries may gain on the best trial: the difference and a deviation of it."""
        weights, mean, variance = self._at(queries)
        best = int(self.utilities.mean.argmax())
        covariance = self.utilities.covariance
        apart = variance + covariance[best, best] - 2 * weights @ covariance[:, best]
        difference = mean - self.utilities.mean[best]
        return np.asarray(np.maximum(difference + _OPTIMISM * np.sqrt(np.maximum(apart, 0)), 0))

    def _near(self, queries: Points) -> Array:
        """[M, T] the prior correlation of queries and trials."""
        return matern(cdist(queries.features, self.features) / self.length)

    def _at(self, queries: Points) -> tuple[Array, Array, Array]:
        """Weights [M, T] of the trials' utilities, the means and the variances [M]."""
        near = self._near(queries)
        weights = near @ self.inverse
        left = self.size**2 * (1 + _JITTER - (weights * near).sum(axis=1))
        known = ((weights @ self.utilities.covariance) * weights).sum(axis=1)
        return weights, weights @ self.utilities.mean, np.maximum(left, 0) + known


def believe(features: Array, first: Indices, second: Indices, weights: Array) -> Belief:
    """The belief after comparisons.

    Args:
        features: [T, E] of the compared trials, in length scales.
        first: [N] the rows of those preferred.
        second: [N] the rows of those they were preferred to.
        weights: [N] how often each counts.
    """
    rows = np.zeros((len(first), len(features)))
    rows[np.arange(len(first)), first] = 1.0
    rows[np.arange(len(first)), second] = -1.0
    distances, once = cdist(features, features), np.ones(len(first))
    found = []
    for length in _LENGTHS:
        near = matern(distances / length) + _JITTER * np.eye(len(features))
        inverse = np.asarray(np.linalg.inv(near), dtype=np.float64)
        for size in _SIZES:
            utilities = posterior(rows, once, inverse / size**2, weights)
            found.append(Belief(features, utilities, inverse, size, length))
    return max(found, key=lambda belief: belief.utilities.evidence)
