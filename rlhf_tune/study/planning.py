"""Planning one trial ahead: what a move is worth beyond its own result.

A move also buys knowledge: near a cell certified today tomorrow's improvement may lie, and a cell
found unsafe spares its neighbours. For each promising move the outcomes of its performance
and of its constraints are imagined at three Gauss-Hermite nodes each, the posteriors are updated,
and the best move after it is valued by the same rule. (Lookahead as in Wu and Frazier 2019,
arXiv:1909.01319, with constraints.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.expected_improvement import expected_improvement
from rlhf_tune.study.process import Points, points_at
from rlhf_tune.study.risk import Forecast, priced
from rlhf_tune.study.state import StudyState

Floats = NDArray[np.float64]

_PIVOTS = 24  # moves that are looked beyond; not tuned
_NODES = tuple((z * math.sqrt(3), w) for z, w in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)))


def ahead(state: StudyState, value: Floats, price: float) -> Floats:
    """[M] how much more the best next-but-one move is worth after each move than now.

    0 for moves that are not allowed or whose `value` [M] is not among the best.
    """
    gains = np.zeros(len(value))
    if not state.history.eligible.any():
        return gains
    beliefs = _beliefs(state)
    now = beliefs.best(beliefs.mean, beliefs.deviation, beliefs.safe(), beliefs.top, price)
    ranked = np.argsort(np.where(state.allowed, value, -np.inf))[::-1][:_PIVOTS]
    for pivot in ranked[state.allowed[ranked]].tolist():
        if pivot:  # staying shows nothing new
            gains[pivot] = beliefs.expected(pivot, price) - now
    return gains


@dataclass(frozen=True)
class _Belief:
    """Joint Gaussian over the M candidate cells, of a measure with `noise` variance."""

    mean: Floats
    covariance: Floats
    noise: float

    @property
    def deviation(self) -> Floats:
        return np.sqrt(np.maximum(np.diag(self.covariance), 1e-10))

    def after(self, pivot: int, z: float) -> tuple[Floats, Floats, float]:
        """Mean and deviation [M] once `pivot` measured z deviations above its mean; that value."""
        spread = math.sqrt(self.covariance[pivot, pivot] + self.noise)
        shared = self.covariance[:, pivot] / spread
        variance = np.maximum(np.diag(self.covariance) - shared**2, 1e-10)
        return self.mean + z * shared, np.sqrt(variance), float(self.mean[pivot] + z * spread)


@dataclass(frozen=True)
class _Beliefs:
    """What is believed of the candidates.

    Attributes:
        performance: In scales, relative to the best result.
        margins: Of each constraint.
        forecasts: The tails of the margins.
        top: The incumbent's performance.
        free: [M] which candidates may be tried at all.
    """

    performance: _Belief
    margins: tuple[_Belief, ...]
    forecasts: tuple[Forecast, ...]
    top: float
    free: NDArray[np.bool_]

    @property
    def mean(self) -> Floats:
        return self.performance.mean

    @property
    def deviation(self) -> Floats:
        return self.performance.deviation

    def safe(self, pivot: int | None = None, z: float = 0.0) -> Floats:
        """P(safe) [M], as it is or once `pivot` measured z deviations above its margins."""
        p = np.ones(len(self.free))
        for belief, forecast in zip(self.margins, self.forecasts, strict=True):
            mean, deviation = belief.mean, belief.deviation
            if pivot is not None:
                mean, deviation, _ = belief.after(pivot, z)
            p *= forecast.p_positive(mean, np.sqrt(deviation**2 + belief.noise))
        return p

    def best(self, mean: Floats, deviation: Floats, p: Floats, top: float, price: float) -> float:
        """The value of the best candidate, 0 where staying is better."""
        values = priced(expected_improvement(mean, deviation, top), p, price)
        return max(0.0, float(values[self.free].max(initial=0.0)))

    def expected(self, pivot: int, price: float) -> float:
        """The same, expected after measuring `pivot`."""
        total = 0.0
        for z_safe, w_safe in _NODES:
            p = self.safe(pivot, z_safe)
            p[pivot] = 0.0
            holds = all(b.after(pivot, z_safe)[2] >= 0 for b in self.margins)
            for z, w in _NODES:
                mean, deviation, result = self.performance.after(pivot, z)
                top = max(self.top, result) if holds else self.top
                total += w_safe * w * self.best(mean, deviation, p, top, price)
        return total


def _beliefs(state: StudyState) -> _Beliefs:
    view, row = state.outlook, state.incumbent
    here = points_at(state.history, state.cells, row)
    predicted, scale = view.predict(here), view.surrogate.scale
    performance = _Belief(
        predicted.mean, view.surrogate.covariance(here) / scale**2, view.surrogate.noise
    )
    margins = tuple(_margin(forecast, here) for forecast in state.forecasts)
    top = float(view.performance[row])
    return _Beliefs(performance, margins, state.forecasts, top, state.allowed)


def _margin(forecast: Forecast, here: Points) -> _Belief:
    """What is believed of one constraint's margin, its deviations inflated."""
    surrogate, size = forecast.surrogate, forecast.inflation**2
    return _Belief(
        surrogate.predict(here).mean,
        surrogate.covariance(here) * size,
        surrogate.noise * surrogate.scale**2 * size,
    )
