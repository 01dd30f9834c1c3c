"""Performance as one of the surfaces that other tasks showed, or as none of them.

The list of a prior is of one kind of task. A task of another kind resembles none of its surfaces,
and what the list says of it misleads; so "none of these", a generic process alone, is weighed
beside the list by how well each explains the trials. What differs from task to task as well is
which parameters matter at all: the length scales of all processes are those that explain the trials
best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from rlhf_tune.study.prior import FLAT, Prior
from rlhf_tune.study.process import Points, Seen
from rlhf_tune.study.surrogate import Posterior, Surrogate, fit, telling

Array = NDArray[np.float64]

NONE = 0.02
"""The probability, before any trial, that a task resembles no surface of a prior's list."""

_RELEVANCES = (0.1, 0.3, 2.0)  # beside 1: how much shorter the length scale of a parameter is
_KNOWN = 6  # trials from which relevances are asked for
_UNLIKELY = 0.5  # log odds that another relevance has to overcome


@dataclass(frozen=True)
class Mixture:
    """What P surrogates say together.

    Attributes:
        parts: The surrogates, which see features by their relevance.
        shares: [P] their probabilities.
        relevance: [E] by how much each column of features counts.
    """

    parts: tuple[Surrogate, ...]
    shares: Array
    relevance: Array

    @property
    def weights(self) -> Array:
        """[K] the probabilities of all components."""
        return np.concatenate(
            [share * part.weights for share, part in zip(self.shares, self.parts, strict=True)]
        )

    @property
    def scales(self) -> Array:
        """[K] the size of the surfaces in the data's units, for each component."""
        return np.concatenate([part.scales for part in self.parts])

    @property
    def scale(self) -> float:
        """Its mean."""
        return float(self.weights @ self.scales)

    @property
    def noise(self) -> float:
        """The mean variance of a measurement, in squared scales."""
        return float(self.shares @ [part.noise for part in self.parts])

    def predict(self, queries: Points, *, noisy: bool = False) -> Posterior:
        """The posterior at M queries, with or without the noise of a measurement."""
        seen = queries.scaled(self.relevance)
        each = [part.predict(seen, noisy=noisy) for part in self.parts]
        means, deviations = (
            np.concatenate([getattr(one, name) for one in each]) for name in ("means", "deviations")
        )
        return Posterior(self.weights, means, deviations)

    def covariance(self, queries: Points) -> Array:
        """The joint posterior covariance [M, M] at queries, in the data's units squared."""
        seen = queries.scaled(self.relevance)
        means = np.array([part.predict(seen).mean for part in self.parts])
        apart = (means - self.shares @ means) * np.sqrt(self.shares)[:, None]
        within = [part.covariance(seen) for part in self.parts]
        return np.asarray(apart.T @ apart + np.tensordot(self.shares, within, axes=1))


def fit_any(
    prior: Prior, points: Points, values: Array, parameters: Sequence[Sequence[int]]
) -> Mixture:
    """Condition the prior, and "none of these" beside a list, on values [T] at T points.

    Args:
        prior: What is known from other tasks.
        points: T of them.
        values: [T] what was measured there.
        parameters: The columns of features of each parameter whose relevance is asked for.
    """
    kept = telling(points, values)
    relevance = relevances(points[kept], values[kept], parameters)
    seen = points.scaled(relevance)
    listed = fit(Seen(prior, seen), values, kept=kept)
    if len(prior.log_weights) == 1:
        return Mixture((listed,), np.ones(1), relevance)
    none = fit(Seen(FLAT, seen), values, kept=kept)
    odds = np.array([math.log(1 - NONE) + listed.evidence, math.log(NONE) + none.evidence])
    return Mixture((listed, none), np.exp(odds - logsumexp(odds)), relevance)


def relevances(points: Points, values: Array, parameters: Sequence[Sequence[int]]) -> Array:
    """[E] by how much the columns of features count, so that they explain values [T] best.

    Args:
        points: T of them.
        values: [T] what was measured there.
        parameters: The columns of each parameter; all of one count alike.
    """
    found = np.ones(points.features.shape[1])
    if not parameters or len(values) < _KNOWN:
        return found
    best = _explained(points, values, found)
    for columns in parameters:
        for relevance in _RELEVANCES:
            tried = found.copy()
            tried[list(columns)] = relevance
            evidence = _explained(points, values, tried)
            if evidence > best + _UNLIKELY:
                found, best = tried, evidence
    return found


def _explained(points: Points, values: Array, relevance: Array) -> float:
    scaled = points.scaled(relevance)
    return fit(Seen(FLAT, scaled), values).evidence
