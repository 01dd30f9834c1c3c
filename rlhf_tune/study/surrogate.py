"""A process over the lattice: what the measured trials say about the other cells.

    v(x) = a + b (s(x) + f(x) + g(x) + noise)

s is one of the surfaces that other tasks showed, f what the prior's factors add to it, g a generic
Gaussian process. The offset `a` is unknown, and so is the scale `b`: a study's results may be
losses, accuracies or anything else, in any unit. Unknown are also which surface it is, how large g
is, and the noise: each combination is weighed by how well it explains the trials, so that the
posterior is a mixture of Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from rlhf_tune.study.evidence import largest, log_odds, log_sum, resembling
from rlhf_tune.study.process import NOISES, OFFSET, Assumption, Points, Seen, kernels, solve

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_TRIALS = 64
"""More trials than this cost cubic time; those that tell most are kept."""

# That scale and surface are weighed was chosen on validation tasks, these figures were not tuned.
_SCALES = np.geomspace(0.5, 64, 11)  # relative to the spread of the results
_COMPONENTS = 64  # of the mixture


@dataclass(frozen=True)
class Posterior:
    """A mixture of K Gaussians at each of M queries.

    Attributes:
        weights: [K] their probabilities.
        means: [K, M]
        deviations: [K, M]
    """

    weights: Array
    means: Array
    deviations: Array

    @property
    def mean(self) -> Array:
        """[M] the mean of the mixture."""
        return np.asarray(self.weights @ self.means)

    @property
    def deviation(self) -> Array:
        """[M] the standard deviation of the mixture."""
        squares = self.weights @ (self.deviations**2 + self.means**2)
        # A difference of large squares, which rounding may turn below what one Gaussian leaves.
        return np.sqrt(np.maximum(squares - self.mean**2, self.weights @ self.deviations**2))

    def scaled(self, offset: float, scale: float) -> Posterior:
        """The posterior of (v - offset) / scale."""
        return Posterior(self.weights, (self.means - offset) / scale, self.deviations / scale)


_seen = lru_cache(maxsize=2)(Seen)  # constraints are predicted at the same points, with two priors


@dataclass(frozen=True)
class Surrogate:
    """The process, conditioned on T trials: a mixture of K components, the likeliest first.

    Attributes:
        center: The mean of the data.
        weights: [K] the components' probabilities.
        scales: [K] b, the size of the surfaces in the data's units.
        evidence: The logarithm of how likely the trials are under the prior, but for what is the
            same for all priors.
        residuals: [T] how far each trial was from what the trials before it predicted by the
            likeliest component, in deviations. By the chain rule these are the targets whitened by
            the Cholesky factor of their covariance. The first is about 0, since the offset is
            unknown.
    """

    center: float
    weights: Array
    scales: Array
    evidence: float
    _trials: Seen
    _assumed: Indices  # [K] the assumption of each component
    _surfaces: Indices  # [K] the surface of each component
    _white: Array  # [K, T] whitened residuals of each component

    @property
    def residuals(self) -> Array:
        """[T] the whitened residuals of the likeliest component."""
        return np.asarray(self._white[0])

    @property
    def scale(self) -> float:
        """The mean of b."""
        return float(self.weights @ self.scales)

    @property
    def noise(self) -> float:
        """The mean variance of a measurement, in squared scales."""
        return float(self.weights @ [self._trials.assumptions[i].noise for i in self._assumed])

    def predict(self, queries: Points, *, noisy: bool = False) -> Posterior:
        """The posterior at M queries, with or without the noise of a measurement."""
        seen = _seen(self._trials.prior, queries)
        means = np.ascontiguousarray(seen.means(self._surfaces).T)
        deviations = np.empty_like(means)
        variance = (seen.factors**2).sum(axis=1) + OFFSET
        for mine, assumed, explained in self._explained(seen):
            means[mine] += self._white[mine] @ explained
            left = variance + assumed.generic - np.einsum("tm,tm->m", explained, explained)
            deviations[mine] = np.sqrt(np.maximum(left, 1e-10) + assumed.noise * noisy)
        b = self.scales[:, None]
        return Posterior(self.weights, self.center + b * means, b * deviations)

    def covariance(self, queries: Points) -> Array:
        """The joint posterior covariance [M, M] at queries, in the data's units squared."""
        seen = _seen(self._trials.prior, queries)
        learned, generic = kernels(seen, seen)
        apart = self.predict(queries)
        apart_means = (apart.means - apart.mean) * np.sqrt(self.weights)[:, None]
        total = apart_means.T @ apart_means
        for mine, assumed, explained in self._explained(seen):
            share = float(self.weights[mine] @ self.scales[mine] ** 2)
            prior = learned + assumed.generic * generic + OFFSET
            total += share * (prior - explained.T @ explained)
        return np.asarray(total)

    def _explained(self, queries: Seen) -> Iterator[tuple[Indices, Assumption, Array]]:
        """For each assumption made: its components, itself, and whitened covariances [T, M]."""
        learned, generic = kernels(self._trials, queries)
        for number in np.unique(self._assumed).tolist():
            assumed = self._trials.assumptions[number]
            cross = learned + assumed.generic * generic + OFFSET
            yield np.flatnonzero(self._assumed == number), assumed, solve(assumed.lower, cross)


def fit(
    trials: Seen,
    values: Array,
    *,
    scales: Sequence[float] | None = None,
    kept: Indices | None = None,
) -> Surrogate:
    """Condition on what was measured.

    A prior of a single surface gives a single Gaussian: noise, scale and variance of g are then
    the most probable of a grid. A prior of many gives a mixture over all of these.

    Args:
        trials: T of them; T may be 0 if `scales` are given.
        values: [T] what was measured there, larger is better.
        scales: The candidates for b, in the units of `values`; by default such that the spread
            of the results is a 64th to twice the gap between useless and best.
        kept: [N] the trials that count, all by default; which surfaces are likely the first trials
            say in any case.
    """
    rows = np.arange(len(values)) if kept is None else kept
    told = values[rows]
    center, spread = (float(told.mean()), float(told.std())) if len(told) else (0.0, 0.0)
    candidates = np.array(_SCALES * (spread or 1.0) if scales is None else scales)
    surfaces, share = resembling(trials, values - center, candidates)
    trials = trials.only(rows)
    prior, assumptions = trials.prior, trials.assumptions
    both = np.column_stack([told - center, trials.means(surfaces)])
    white = np.array([solve(assumed.lower, both) for assumed in assumptions])
    odds = log_odds(prior, assumptions, white, candidates) + prior.log_weights[surfaces]
    likely = []
    for variance, weight in zip(prior.generic, prior.generic_weights, strict=True):
        same = [assumed.generic == variance for assumed in assumptions]
        likely.append(math.log(weight) + log_sum(odds[same]))
        odds[same] += math.log(weight) - log_sum(odds[same])
    best = largest(odds.ravel(), 1 if len(prior.log_weights) == 1 else _COMPONENTS)
    assumed_by, at_scale, of_surface = np.unravel_index(best, odds.shape)
    weights = np.exp(odds.ravel()[best] - odds.max())
    found = (
        white[assumed_by, :, 0] / candidates[at_scale, None] - white[assumed_by, :, 1 + of_surface]
    )
    return Surrogate(
        center=center,
        weights=weights / weights.sum(),
        scales=candidates[at_scale],
        evidence=log_sum(np.array(likely)) - math.log(share * len(NOISES) * len(candidates)),
        _trials=trials,
        _assumed=assumed_by,
        _surfaces=surfaces[of_surface],
        _white=found,
    )


def telling(points: Points, weights: Array) -> Indices:
    """The rows [N] of up to `MAX_TRIALS` trials, to spare cubic time.

    Half of them have the largest `weights` [T], half are far from all others.
    """
    if len(points) <= MAX_TRIALS:
        return np.arange(len(points))
    rows = largest(weights, MAX_TRIALS // 2).tolist()
    every = points.features
    apart = cdist(every, every[rows], "sqeuclidean").min(axis=1)
    apart[rows] = -1.0  # repeats of one point are as near as itself
    while len(rows) < MAX_TRIALS:
        rows.append(new := int(apart.argmax()))
        away = every - every[new]
        apart = np.minimum(apart, np.einsum("ij,ij->i", away, away))
        apart[new] = -1.0
    return np.sort(np.array(rows))
