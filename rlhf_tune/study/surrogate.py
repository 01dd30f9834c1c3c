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
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtrs
from scipy.spatial.distance import cdist

from rlhf_tune.study.history import History
from rlhf_tune.study.prior import Places, Prior, axis_of, places_of
from rlhf_tune.study.space import Lattice

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_TRIALS = 64
"""More trials than this cost cubic time; those that tell most are kept."""

# That noise, scale and surface are weighed was chosen on validation tasks, these figures were not
# tuned.
_NOISES = (0.3, 1.0, 3.0)  # relative to the prior's
_SCALES = np.geomspace(0.5, 64, 11)  # relative to the spread of the results
_OFFSET = 100.0  # prior variance of the offset, in squared scales: as good as flat
_SHARED = 0.5  # of the factors: what does not depend on the other parameters
_DEGREES = 3.0  # how many residuals the scale is worth, in the Student-t evidence
_RESEMBLING = 64  # surfaces that are weighed in full ...
_EARLY = 24  # ... chosen by so many of the trials
_COMPONENTS = 64  # of the mixture


@dataclass(frozen=True, eq=False)
class Points:
    """M places as the process sees them.

    Attributes:
        places: Learning rate and batch size, as the prior knows them.
        features: [M, E] all parameters, in length scales.
        others: [M, O] those that the prior does not know, in length scales.
        unknown: [O] their columns.
    """

    places: Places
    features: Array
    others: Array
    unknown: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    def scaled(self, relevance: Array) -> Points:
        """With features [M, E] that count `relevance` [E] times as much."""
        if (relevance == 1).all():
            return self
        scaled = self.features * relevance
        return Points(self.places, scaled, scaled[:, self.unknown], self.unknown)

    def __getitem__(self, rows: slice | Indices) -> Points:
        places = Places(self.places.nodes[rows], self.places.shares[rows])
        return Points(places, self.features[rows], self.others[rows], self.unknown)


@lru_cache(maxsize=1)  # a suggestion asks for them three times
def points_of(history: History) -> Points:
    """The trials of a history."""
    return _points(history.lattice, history.positions, history.features())


def points_at(history: History, cells: Indices, row: int) -> Points:
    """Cells [M, D] of the lattice, with the unordered values of trial `row`."""
    positions = history.lattice.positions(cells)
    return _points(history.lattice, positions, history.candidate_features(cells, row))


def _points(lattice: Lattice, positions: Array, features: Array) -> Points:
    known = {axis_of(lattice, "learning_rate"), axis_of(lattice, "batch_size")}
    others = tuple(column for column in range(features.shape[1]) if column not in known)
    return Points(places_of(lattice, positions), features, features[:, others], others)


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


@dataclass(frozen=True)
class _Assumption:
    """The process at one noise and one variance of g, both in squared scales.

    Attributes:
        noise: The variance of a measurement.
        generic: The variance of g.
        lower: [T, T] Cholesky factor of the covariance of the trials.
    """

    noise: float
    generic: float
    lower: Array


@dataclass(frozen=True, eq=False)
class Seen:
    """M points under a prior: what of a posterior does not depend on what was measured there.

    Attributes:
        prior: What is known from other tasks.
        points: Where they are.
    """

    prior: Prior
    points: Points

    @cached_property
    def factors(self) -> Array:
        """[M, R] the prior's factors there."""
        return self.prior.factors_at(self.points.places)

    @cached_property
    def assumptions(self) -> tuple[_Assumption, ...]:
        """Every noise with every variance of g, if these are the trials."""
        learned, generic = _kernels(self, self)
        return tuple(
            _assumption(learned, generic, times * self.prior.noise, float(variance))
            for times in _NOISES
            for variance in self.prior.generic
        )

    def means(self, surfaces: Indices) -> Array:
        """[M, K] the surfaces there; of a prior of few, which constraints share, all are kept."""
        if len(self.prior.log_weights) > _RESEMBLING:
            return self.prior.means_at(self.points.places, surfaces)
        return self._means[:, surfaces]

    @cached_property
    def _means(self) -> Array:
        return self.prior.means_at(self.points.places)

    def only(self, rows: Indices) -> Seen:
        """Some of them; itself where these are all."""
        return self if len(self.points) == len(rows) else Seen(self.prior, self.points[rows])


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
    _white: Array  # [T, K] whitened residuals of each component

    @property
    def residuals(self) -> Array:
        """[T] the whitened residuals of the likeliest component."""
        return self._white[:, 0]

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
        means = seen.means(self._surfaces)
        deviations = np.empty_like(means)
        variance = (seen.factors**2).sum(axis=1) + _OFFSET
        for mine, assumed, explained in self._explained(seen):
            means[:, mine] += explained.T @ self._white[:, mine]
            left = variance + assumed.generic - (explained**2).sum(axis=0)
            deviation = np.sqrt(np.maximum(left, 1e-10) + assumed.noise * noisy)
            deviations[:, mine] = deviation[:, None]
        b = self.scales[:, None]
        return Posterior(self.weights, self.center + b * means.T, b * deviations.T)

    def covariance(self, queries: Points) -> Array:
        """The joint posterior covariance [M, M] at queries, in the data's units squared."""
        seen = _seen(self._trials.prior, queries)
        learned, generic = _kernels(seen, seen)
        apart = self.predict(queries)
        apart_means = (apart.means - apart.mean) * np.sqrt(self.weights)[:, None]
        total = apart_means.T @ apart_means
        for mine, assumed, explained in self._explained(seen):
            share = float(self.weights[mine] @ self.scales[mine] ** 2)
            prior = learned + assumed.generic * generic + _OFFSET
            total += share * (prior - explained.T @ explained)
        return np.asarray(total)

    def _explained(self, queries: Seen) -> Iterator[tuple[NDArray[np.bool_], _Assumption, Array]]:
        """For each assumption made: its components [K], itself, and whitened covariances [T, M]."""
        learned, generic = _kernels(self._trials, queries)
        for number, assumed in enumerate(self._trials.assumptions):
            mine = self._assumed == number
            if mine.any():
                cross = learned + assumed.generic * generic + _OFFSET
                yield mine, assumed, _solve(assumed.lower, cross)


def fit(
    trials: Seen,
    values: Array,
    *,
    scales: Sequence[float] | None = None,
    weights: Array | None = None,
) -> Surrogate:
    """Condition on what was measured.

    A prior of a single surface gives a single Gaussian: noise, scale and variance of g are then
    the most probable of a grid. A prior of many gives a mixture over all of these.

    Args:
        trials: T of them; T may be 0 if `scales` are given.
        values: [T] what was measured there, larger is better.
        scales: The candidates for b, in the units of `values`; by default such that the spread
            of the results is a 64th to twice the gap between useless and best.
        weights: [T] which trials to keep first, where there are more than `MAX_TRIALS`; by default
            those of large values.
    """
    rows = _telling(trials.points, values if weights is None else weights)
    trials, values = trials.only(rows), values[rows]
    prior, assumptions = trials.prior, trials.assumptions
    center, spread = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    candidates = np.array(_SCALES * (spread or 1.0) if scales is None else scales)
    apart = values - center
    surfaces, share = _resembling(trials, apart, candidates)
    means = trials.means(surfaces)
    both = np.column_stack([apart, means])
    white = np.array([_solve(assumed.lower, both) for assumed in assumptions])
    odds = _log_odds(prior, assumptions, white, candidates) + prior.log_weights[surfaces]
    likely = []
    for variance, weight in zip(prior.generic, prior.generic_weights, strict=True):
        same = [assumed.generic == variance for assumed in assumptions]
        likely.append(math.log(weight) + _log_sum(odds[same]))
        odds[same] += math.log(weight) - _log_sum(odds[same])
    best = _largest(odds.ravel(), 1 if len(prior.log_weights) == 1 else _COMPONENTS)
    assumed_by, at_scale, of_surface = np.unravel_index(best, odds.shape)
    weights = np.exp(odds.ravel()[best] - odds.max())
    found = (
        white[assumed_by, :, 0] / candidates[at_scale, None] - white[assumed_by, :, 1 + of_surface]
    )
    return Surrogate(
        center=center,
        weights=weights / weights.sum(),
        scales=candidates[at_scale],
        evidence=_log_sum(np.array(likely)) - math.log(share * len(_NOISES) * len(candidates)),
        _trials=trials,
        _assumed=assumed_by,
        _surfaces=surfaces[of_surface],
        _white=found.T,
    )


def _telling(points: Points, weights: Array) -> Indices:
    """Up to `MAX_TRIALS` rows [N]: half of the largest `weights` [T], half far from all others."""
    if len(points) <= MAX_TRIALS:
        return np.arange(len(points))
    rows = _largest(weights, MAX_TRIALS // 2).tolist()
    every = points.features
    apart = cdist(every, every[rows], "sqeuclidean").min(axis=1)
    apart[rows] = -1.0  # repeats of one point are as near as itself
    while len(rows) < MAX_TRIALS:
        rows.append(new := int(apart.argmax()))
        away = every - every[new]
        apart = np.minimum(apart, np.einsum("ij,ij->i", away, away))
        apart[new] = -1.0
    return np.sort(np.array(rows))


def _resembling(trials: Seen, values: Array, scales: Array) -> tuple[Indices, float]:
    """The surfaces that explain the first trials best, at one assumption about g and noise.

    And the probability that it is one of them.
    """
    prior = trials.prior
    if len(prior.log_weights) <= _RESEMBLING:
        return np.arange(len(prior.log_weights)), 1.0
    early, values = Seen(prior, trials.points[:_EARLY]), values[:_EARLY]
    middle = float(np.exp(np.log(prior.generic).mean()))
    assumed = _assumption(*_kernels(early, early), prior.noise, middle)
    inverse = _solve(assumed.lower, np.eye(len(values)))  # many columns: faster than solving
    white = inverse @ np.column_stack([values, prior.means_at(early.points.places)])
    best = np.clip(_best_scales(white), scales.min(), scales.max())
    evidence = _evidence(assumed.lower, white, best[None])[0]
    odds = evidence + prior.log_weights
    found = _largest(odds, _RESEMBLING)
    return found, math.exp(_log_sum(odds[found]) - _log_sum(odds))


def _best_scales(white: Array) -> Array:
    """[K] the scale at which each surface has the largest evidence (`_evidence`).

    Its derivative by u = 1 / b is 0 at the positive root of a quadratic.
    """
    trials, values, means = len(white), white[:, 0], white[:, 1:]
    a = (_DEGREES + 1) * max(float(values @ values), 1e-300)
    b = (trials - 2 - _DEGREES) * (values @ means)
    c = max(trials - 1, 0) * (_DEGREES + (means**2).sum(axis=0))
    u = (np.sqrt(b**2 + 4 * a * c) - b) / (2 * a)
    return np.asarray(1 / np.maximum(u, 1e-300))


def _log_odds(
    prior: Prior, assumptions: Sequence[_Assumption], white: Array, scales: Array
) -> Array:
    """[A, S, K] of A assumptions, S scales and K surfaces; `white` [A, T, 1 + K]."""
    return np.array(
        [
            _evidence(assumed.lower, each, scales[:, None])
            - 0.1 * math.log10(assumed.noise / prior.noise) ** 2
            for assumed, each in zip(assumptions, white, strict=True)
        ]
    )


def _assumption(learned: Array, generic: Array, noise: float, variance: float) -> _Assumption:
    covariance = learned + variance * generic + _OFFSET + noise * np.eye(len(learned))
    lower, failed = dpotrf(covariance, lower=1)  # LAPACK itself, as in `_solve`
    if failed:
        raise np.linalg.LinAlgError("the covariance of the trials is not positive definite")
    return _Assumption(noise, variance, lower)


def _evidence(lower: Array, white: Array, scales: Array) -> Array:
    """[S, K] the logarithm of the evidence of K surfaces at S scales.

    Args:
        lower: [T, T] Cholesky factor of the trials' covariance.
        white: [T, 1 + K] the values, and the surfaces at the trials, whitened by it.
        scales: [S, 1], or [S, K] for each surface its own.
    """
    trials, b = len(lower), scales
    values, means = white[:, 0], white[:, 1:]
    squares = values @ values / b**2 - 2 * (values @ means) / b + (means**2).sum(axis=0)
    return np.asarray(
        -max(trials - 1, 0) * np.log(b)
        - 0.5 * (_DEGREES + trials) * np.log1p(np.maximum(squares, 0) / _DEGREES)
        - np.log(np.diag(lower)).sum()
    )


def _largest(values: Array, n: int) -> Indices:
    """The indices of the n largest of values [N], the largest first."""
    n = min(n, len(values))
    found = np.argpartition(values, len(values) - n)[len(values) - n :]
    return found[np.argsort(-values[found], kind="stable")]


def _log_sum(logarithms: Array) -> float:
    """log(sum(exp(.))); SciPy's takes ten times as long for arrays of this size."""
    largest = float(logarithms.max())
    return largest + math.log(float(np.exp(logarithms - largest).sum()))


def _solve(lower: Array, right: Array) -> Array:
    """The solution of lower x = right. LAPACK itself: SciPy's checks take longer than the sums."""
    return np.asarray(dtrtrs(lower, right, lower=1)[0]) if len(lower) else right


@lru_cache(maxsize=2)  # and were measured at the same trials
def _kernels(a: Seen, b: Seen) -> tuple[Array, Array]:
    """[M, N] the covariance of f, and the correlation of g."""
    generic = matern(cdist(a.points.features, b.points.features))
    if not a.factors.shape[1]:
        return np.zeros_like(generic), generic
    learned = a.factors @ b.factors.copy().T  # of a @ a.T NumPy computes one half, in other bits
    if a.points.others.shape[1]:
        learned *= _SHARED + (1 - _SHARED) * matern(cdist(a.points.others, b.points.others))
    return learned, generic


def matern(distance: Array) -> Array:
    """Source: Rasmussen and Williams (2006), eq. 4.17."""
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
