"""The Gaussian process of a study at places: parameters in length scales, and their covariance."""

from __future__ import annotations

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

OFFSET = 100.0
"""The prior variance of a study's offset, in squared scales: as good as flat."""

NOISES = (0.3, 1.0, 3.0)
"""The variances of a measurement that are weighed, relative to the prior's."""

# Not tuned:
_SHARED = 0.5  # of the factors: what does not depend on the other parameters
_FEW = 64  # surfaces, up to which all are looked up at once


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
class Assumption:
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
    def assumptions(self) -> tuple[Assumption, ...]:
        """Every noise with every variance of g, if these are the trials."""
        learned, generic = kernels(self, self)
        return tuple(
            assumption(learned, generic, times * self.prior.noise, float(variance))
            for times in NOISES
            for variance in self.prior.generic
        )

    def means(self, surfaces: Indices) -> Array:
        """[M, K] the surfaces there; of a prior of few, which constraints share, all are kept."""
        if len(self.prior.log_weights) > _FEW:
            return self.prior.means_at(self.points.places, surfaces)
        return self._means[:, surfaces]

    @cached_property
    def _means(self) -> Array:
        return self.prior.means_at(self.points.places)

    def only(self, rows: Indices) -> Seen:
        """Some of them; itself where these are all."""
        return self if len(self.points) == len(rows) else Seen(self.prior, self.points[rows])


def assumption(learned: Array, generic: Array, noise: float, variance: float) -> Assumption:
    """That of T trials whose `learned` covariance and `generic` correlation are [T, T]."""
    covariance = learned + variance * generic + OFFSET + noise * np.eye(len(learned))
    lower, failed = dpotrf(covariance, lower=1)  # LAPACK itself, as in `solve`
    if failed:
        raise np.linalg.LinAlgError("the covariance of the trials is not positive definite")
    return Assumption(noise, variance, lower)


def solve(lower: Array, right: Array) -> Array:
    """The solution of lower x = right. LAPACK itself: SciPy's checks take longer than the sums."""
    return np.asarray(dtrtrs(lower, right, lower=1)[0]) if len(lower) else right


def correlations(a: Seen, b: Seen) -> tuple[Array, Array]:
    """[M, N] the covariance of f, and the correlation of g."""
    generic = matern(cdist(a.points.features, b.points.features))
    if not a.factors.shape[1]:
        return np.zeros_like(generic), generic
    learned = a.factors @ b.factors.copy().T  # of a @ a.T NumPy computes one half, in other bits
    if a.points.others.shape[1]:
        learned *= _SHARED + (1 - _SHARED) * matern(cdist(a.points.others, b.points.others))
    return learned, generic


kernels = lru_cache(maxsize=2)(correlations)  # constraints were measured at the same trials


def matern(distance: Array) -> Array:
    """Source: Rasmussen and Williams (2006), eq. 4.17."""
    scaled = np.sqrt(5.0) * distance
    return np.asarray((1 + scaled + scaled**2 / 3) * np.exp(-scaled))
