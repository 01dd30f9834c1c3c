"""Expected improvement: what the next trial alone is expected to gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlhf_tune.history import History
from rlhf_tune.policy.situation import Situation
from rlhf_tune.prior import Prior
from rlhf_tune.surrogate import Points, Posterior, Surrogate, fit, points_at, points_of

Floats = NDArray[np.float64]

_QUARTILE = 0.75
_OUTLIER = 5.0


def q_values(situation: Situation) -> Floats:
    """The expected improvement [M] of the candidate moves on the incumbent, in scales."""
    view = outlook(situation.history, situation.prior)
    return view.improvement(situation.incumbent, situation.cells)


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """E[max(0, v - best)] [M] for Gaussian v of `mean` [M] and `deviation` [M] > 0.

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
        performance: [T] their results; the worst where there is none.
        surrogate: Conditioned on the complete ones.
    """

    history: History
    performance: Floats
    surrogate: Surrogate
    _top: float

    def improvement(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] the expected improvement on trial `row` at cells [M, D]; 0 off the lattice."""
        inside = self.history.lattice.inside(cells)
        predicted = self.predict(self._at(cells[inside], row))
        result = np.zeros(len(cells))
        best = float(self.performance[row])
        result[inside] = expected_improvement(predicted.mean, predicted.deviation, best)
        return result

    def of_trials(self, rows: NDArray[np.int64]) -> Posterior:
        """The posterior at trials `rows` [N]."""
        return self.predict(points_of(self.history, self.surrogate.prior, rows))

    def in_units(self, row: int, cells: NDArray[np.int64]) -> Posterior:
        """The posterior at cells [M, D] in the study's units, larger is better."""
        return self.surrogate.predict(self._at(cells, row))

    def prior_in_units(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] the prior's mean at cells [M, D], anchored at the posterior mean of trial `row`."""
        here, there = self._at(self.history.cells[row : row + 1], row), self._at(cells, row)
        anchor = self.surrogate.predict(here).mean
        return np.asarray(anchor + self.surrogate.scale * (there.mean - here.mean))

    def predict(self, queries: Points) -> Posterior:
        """The posterior at any points."""
        predicted, scale = self.surrogate.predict(queries), self.surrogate.scale
        return Posterior((predicted.mean - self._top) / scale, predicted.deviation / scale)

    def _at(self, cells: NDArray[np.int64], row: int) -> Points:
        return points_at(self.history, self.surrogate.prior, cells, row)


def outlook(history: History, prior: Prior) -> Outlook:
    """Fit a surrogate to a history with at least one complete trial."""
    values = without_outliers(history.values)
    known = np.flatnonzero(history.complete)
    surrogate = fit(prior, points_of(history, prior, known), values[known])
    top = float(values[known].max())
    performance = (np.nan_to_num(values, nan=values[known].min()) - top) / surrogate.scale
    return Outlook(history, performance, surrogate, top)


def without_outliers(values: Floats) -> Floats:
    """Results [T], larger is better, with diverged runs moved to five times the quartile.

    A loss of 10,000 would otherwise stretch the scale until all good points look alike. Gaps to
    the best result are bounded by five times their third quartile (the lower of two neighbours,
    so that one diverged run among three cannot be it). NaN stays NaN.
    """
    gaps = np.nanmax(values) - values
    quartile = np.nanquantile(gaps, _QUARTILE, method="lower")
    return np.nanmax(values) - np.minimum(gaps, _OUTLIER * quartile if quartile > 0 else np.inf)
