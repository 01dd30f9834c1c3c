"""Measures the constraints of a model, and predicts them for moves that were not made yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.measurement import Constraint, Measurement, check_constraints, measure_all
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import shipped
from rlhf_tune.study.surrogate import Points, Seen, Surrogate, fit, points_at, points_of

# Not tuned:
_DEGREES = 3.0  # how many residuals the scale is worth
_LIKELY = 0.5  # P(safe) from which a feasible trial is believed to be so
_LARGE = 0.3  # what an untrusted measurement costs at least, in differences of shares

Floats = NDArray[np.float64]


class SafetyChecker:
    """Asks c(s, a) <= 0 before acting, and measures it after.

    Attributes:
        confidence: The P(safe) below which a move is masked.
    """

    def __init__(self, constraints: Sequence[Constraint] = (), *, confidence: float = 0.5) -> None:
        """Check `constraints`, and mask moves whose predicted P(safe) is below `confidence`.

        Raises:
            InvalidInputError: If `confidence` is not within [0, 1), or two constraints have the
                same name.
        """
        if not 0 <= confidence < 1:
            raise InvalidInputError(f"`confidence` must be within [0, 1), but got {confidence}")
        self._constraints = check_constraints(constraints)
        self.confidence = confidence

    def measure(self, model: Any) -> dict[str, Measurement]:
        """Measure every constraint on a model; keyed by the measurements' names.

        Raises:
            InvalidInputError: If two constraints have the same name.
        """
        return measure_all(self._constraints, model)

    def p_safe(
        self,
        history: History,
        cells: NDArray[np.int64],
        forecasts: Sequence[Forecast] | None = None,
    ) -> Floats:
        """The predicted probability [M] that a trial at lattice cells [M, D] is safe.

        Each constraint has a Gaussian process of its own, with a prior from other tasks. It is
        recalibrated online: where the one-step-ahead residuals of this study's own trials are
        larger than predicted, its deviations grow, and the tail is a Student t's. A study without
        constraints is safe everywhere.

        Here and below, `forecasts` are those of this history where they are known already.
        """
        row = history.best()
        if row is None or not history.constraints:
            return np.ones(len(cells))
        known = self.forecasts(history) if forecasts is None else forecasts
        return _p_all(known, points_at(history, cells, row), noisy=True)

    def forecasts(self, history: History) -> tuple[Forecast, ...]:
        """What is predicted of each constraint of a study: one posterior is fitted for each."""
        if not history.constraints:
            return ()
        points, prior = points_of(history), shipped("robustness")
        same: dict[bytes, Seen] = {}  # constraints are usually measured on the same trials
        found = []
        for costs in history.costs.T:
            rows = np.flatnonzero(~np.isnan(costs))
            trials = same.setdefault(rows.tobytes(), Seen(prior, points[rows]))
            found.append(_forecast(trials, costs[rows]))
        return tuple(found)

    def mask(self, history: History, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether moving to each of the cells [M, D] is predicted to be safe enough."""
        return self.p_safe(history, cells) >= self.confidence

    def reliable(
        self, history: History, forecasts: Sequence[Forecast] | None = None
    ) -> NDArray[np.bool_]:
        """[T] which eligible trials are probably safe on the mean over repetitions.

        The likeliest of them if none is; none where no trial is eligible. A prediction: certified
        is what was measured, and kept.
        """
        eligible = history.eligible
        if not history.constraints or not eligible.any():
            return eligible
        known = self.forecasts(history) if forecasts is None else forecasts
        p = _p_all(known, points_of(history), noisy=False)
        return np.asarray(eligible & (p >= min(_LIKELY, p[eligible].max())))

    def risk(self, history: History) -> Risk:
        """What was predicted for every checked trial before it ran, beside what was measured.

        The trials before the first complete one are left out: nothing was known then.
        """
        checked = history.measured & bool(history.constraints)
        rows = [row for row in np.flatnonzero(checked).tolist() if history.complete[:row].any()]
        predicted = [self.p_safe(history.before(r), history.cells[r : r + 1])[0] for r in rows]
        return Risk(
            history.numbers[rows], np.array(predicted, dtype=np.float64), ~history.unsafe[rows]
        )


@dataclass(frozen=True)
class Risk:
    """Predicted and observed risk of the N trials whose risk was predicted.

    Attributes:
        numbers: [N] trial numbers.
        p_safe: [N] the probability that all constraints hold, as predicted before the trial.
        safe: [N] whether they did.
    """

    numbers: NDArray[np.int64]
    p_safe: Floats
    safe: NDArray[np.bool_]

    @property
    def predicted(self) -> float:
        """The number of unsafe trials expected."""
        return float((1 - self.p_safe).sum())

    @property
    def observed(self) -> int:
        """The number of unsafe trials measured."""
        return int((~self.safe).sum())


@dataclass(frozen=True)
class Forecast:
    """The predicted margin of one constraint: how far a measurement stays within its bound.

    The tail is a Student t's, whose scale is that of the one-step-ahead residuals, though never
    below the prior's. Source: Shah, Wilson and Ghahramani (2014), arXiv:1402.4306.

    Attributes:
        surrogate: Of the margins, larger is safer.
    """

    surrogate: Surrogate

    @property
    def degrees(self) -> float:
        """Of freedom."""
        return _DEGREES + len(self.surrogate.residuals)

    @property
    def inflation(self) -> float:
        """By how much the deviations are larger than the process says."""
        residuals = self.surrogate.residuals
        squares = _DEGREES + float(residuals @ residuals)
        return math.sqrt(max(1.0, squares / self.degrees))

    def p_satisfied(self, there: Points, *, noisy: bool) -> Floats:
        """P(margin >= 0) [M]; with `noisy` of one measurement, without of their mean."""
        predicted = self.surrogate.predict(there, noisy=noisy)
        return self.p_positive(predicted.mean, predicted.deviation * self.inflation)

    def p_positive(self, mean: Floats, deviation: Floats) -> Floats:
        """P(margin >= 0) [M] for given means and (inflated) deviations."""
        return np.asarray(stdtr(self.degrees, mean / deviation))


def _p_all(forecasts: Sequence[Forecast], there: Points, *, noisy: bool) -> Floats:
    """The probability [M] that all constraints hold."""
    each = [forecast.p_satisfied(there, noisy=noisy) for forecast in forecasts]
    return np.asarray(np.prod(each, axis=0))


def _forecast(trials: Seen, costs: Floats) -> Forecast:
    """From the costs [T] of one constraint at T trials."""
    margins, scales = _margins(costs)
    return Forecast(fit(trials, margins, scales=scales))


def _margins(costs: Floats) -> tuple[Floats, tuple[float, ...] | None]:
    """How far costs [T] are from the bound, larger is safer, and the scales they may have.

    Costs within [-1, 1] are taken for differences of shares, whose scale the prior knows; others
    are judged by themselves. Untrusted ones become finite: as bad as the worst.
    """
    finite = costs[np.isfinite(costs)]
    largest = float(np.abs(finite).max(initial=0.0))
    shares = largest <= 1
    ceiling = max(largest, _LARGE if shares else 0.0)
    return -np.clip(costs, -ceiling, ceiling), (1.0,) if shares else None


def priced(q: Floats, p_safe: Floats, price: float) -> Floats:
    """[M] q P(safe) - price (1 - P(safe)): a move earns `q` [M] if safe, costs `price` if not.

    Row 0, "stay", is worth 0, so that the study stays where no other move is worth its risk.
    """
    value = q * p_safe - price * (1 - p_safe)
    value[0] = 0.0
    return np.asarray(value)
