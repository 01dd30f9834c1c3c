"""Expected improvement: what the next trial alone is expected to gain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlhf_tune.study.history import History
from rlhf_tune.study.mixture import Mixture, fit_any
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.process import Points, points_at, points_of
from rlhf_tune.study.surrogate import MAX_TRIALS, Posterior

if TYPE_CHECKING:
    from rlhf_tune.study.belief import Belief

Floats = NDArray[np.float64]

# Not tuned:
_QUARTILE = 0.75
_OUTLIER = 5.0
# Complete trials from which the best one is told by its posterior mean, since the luckiest of many
# measurements is too good; registered before it was tried (docs/design.md 3).
_LATE = 10


def expected_improvement(mean: Floats, deviation: Floats, best: float | Floats) -> Floats:
    """E[max(0, v - best)] [...] for Gaussian v of `mean` [...] and `deviation` [...] > 0.

    Source: Jones, Schonlau and Welch (1998), doi:10.1023/A:1008306431147, eq. 15.
    """
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * ndtr(z) + density))


@dataclass(frozen=True)
class Outlook:
    """What a study's trials let expect of any cell.

    All is in scales: 0 is the best result so far, -1 about as much worse as a useless model is
    than the best one (the scale of `surrogate`).

    Attributes:
        history: The trials.
        prior: What is known from other tasks.
        performance: [T] their results; the worst where there is none.
        surrogate: Conditioned on the complete and the failed ones; on comparisons, where there is
            nothing else.
    """

    history: History
    prior: Prior
    performance: Floats
    surrogate: Mixture | Belief
    _top: float

    def improvement(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] the expected improvement on trial `row` at cells [M, D].

        Of utilities that rest on comparisons, what the cells may gain on the best trial.
        """
        queries = self._at(cells, row)
        if self.history.belief is not None:
            return self.history.belief.gain(queries)
        return self.gain(row, self.predict(queries))

    def gain(self, row: int, predicted: Posterior) -> Floats:
        """[M] the expected improvement on trial `row` at M queries."""
        best = self._best if self.history.complete.sum() >= _LATE else self.performance[row]
        likely = np.maximum(self._running, best)
        each = expected_improvement(predicted.means, predicted.deviations, likely)
        return np.asarray(predicted.weights @ each)

    def novelty(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] how much of a measurement at cells [M, D] is news: 0 where it is all noise.

        Source: the factor of augmented expected improvement, Huang et al. (2006),
        doi:10.1007/s10898-005-2454-3, eq. 12.
        """
        noise, variance = self.surrogate.noise, self.predict(self._at(cells, row)).deviation ** 2
        return np.asarray(1 - np.sqrt(noise / (noise + variance)))

    @cached_property
    def _running(self) -> Floats:
        """[K, 1] the best that running trials will reach, by the mean of each component."""
        rows = np.flatnonzero(self.history.running)
        if not len(rows):
            return np.full((1, 1), -np.inf)
        means = self.predict(points_of(self.history)[rows]).means
        return np.asarray(means.max(axis=1, keepdims=True))

    @cached_property
    def _best(self) -> float:
        """The largest posterior mean of a trial that may be recommended, of any while none may."""
        may = self.history.eligible if self.history.eligible.any() else self.history.complete
        rows = np.flatnonzero(may)
        # The best mean is among the best results; of thousands not all are worth a look.
        found = rows[np.argsort(-self.history.values[rows], kind="stable")[:MAX_TRIALS]]
        return float(self.predict(points_of(self.history)[np.sort(found)]).mean.max())

    def of_trials(self) -> Posterior:
        """The posterior at the trials."""
        return self.predict(points_of(self.history))

    def in_units(self, row: int, cells: NDArray[np.int64]) -> Posterior:
        """The posterior at cells [M, D] in the study's units, larger is better."""
        return self.surrogate.predict(self._at(cells, row))

    def prior_in_units(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] the prior's mean at cells [M, D], anchored at the posterior mean of trial `row`."""
        both = np.concatenate([self.history.cells[row : row + 1], cells])
        known = self.prior.mean_at(self._at(both, row).places)
        anchor = self.in_units(row, both[:1]).mean
        return np.asarray(anchor + self.surrogate.scale * (known[1:] - known[0]))

    def predict(self, queries: Points) -> Posterior:
        """The posterior at any points."""
        return self.surrogate.predict(queries).scaled(self._top, self.surrogate.scale)

    def _at(self, cells: NDArray[np.int64], row: int) -> Points:
        return points_at(self.history, cells, row)


def outlook(history: History, prior: Prior) -> Outlook:
    """Fit a surrogate to a history with at least one complete trial.

    A failed trial counts as bad as the worst of the complete ones: how bad it is, nobody knows.
    """
    if history.belief is not None:
        top = float(np.nanmax(history.values))
        return Outlook(history, prior, history.values - top, history.belief, top)
    values = without_outliers(history.values)
    worst, top = float(np.nanmin(values)), float(np.nanmax(values))
    known = np.flatnonzero(history.complete | history.failed)
    values = np.nan_to_num(values, nan=worst)
    points = points_of(history)[known]
    surrogate = fit_any(prior, points, values[known], history.columns())
    performance = (values - top) / surrogate.scale
    return Outlook(history, prior, performance, surrogate, top)


def without_outliers(values: Floats) -> Floats:
    """Results [T], larger is better, with diverged runs moved to five times the quartile.

    A loss of 10,000 would otherwise stretch the scale until all good points look alike. Gaps to
    the best result are bounded by five times their third quartile (the lower of two neighbours,
    so that one diverged run among three cannot be it). NaN stays NaN.
    """
    best = np.nanmax(values)
    gaps = best - values
    known = np.sort(gaps[~np.isnan(gaps)])  # a tenth of the time of NumPy's quantile of NaN
    quartile = known[int(_QUARTILE * (len(known) - 1))]
    return np.asarray(best - np.minimum(gaps, _OUTLIER * quartile if quartile > 0 else np.inf))
