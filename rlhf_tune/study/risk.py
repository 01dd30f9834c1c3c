"""Measures the constraints of a model, and predicts them for moves that were not made yet."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.measurement import Constraint, Measurement, check_constraints, measure_all
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import FLAT, shipped
from rlhf_tune.study.process import Points, Seen, points_at, points_of
from rlhf_tune.study.surrogate import Surrogate, fit, telling
from rlhf_tune.tabled import Tabled

if TYPE_CHECKING:
    from rlhf_tune.tables import Table

# Not tuned:
_DEGREES = 3.0  # how many residuals the scale is worth
_LIKELY = 0.5  # P(safe) from which a feasible trial is believed to be so
_LARGE = 0.3  # what an untrusted measurement costs at least, in differences of shares
_SCALES = (0.5, 1.0, 2.0, 4.0)  # of a cost that no other task is known of, in typical costs

_ROBUSTNESS = re.compile(r"robust|adversarial|fgsm|pgd", re.IGNORECASE)
"""The names of constraints that the prior of robust accuracy is for."""

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

        Each constraint has a Gaussian process of its own: robust accuracy, which is told by its
        name, with a prior from other tasks, others with their own scale and sign alone. It is
        recalibrated online: where the one-step-ahead residuals of this study's own trials are
        larger than predicted, its deviations grow, and the tail is a Student t's. To end without a
        result is predicted like a constraint, once a trial did. A study without either is safe
        everywhere.

        Here and below, `forecasts` are those of this history where they are known already.
        """
        row = history.best()
        known = self.forecasts(history) if forecasts is None else forecasts
        if row is None or not known:
            return np.ones(len(cells))
        return _p_all(known, points_at(history, cells, row), noisy=True)

    def forecasts(self, history: History) -> tuple[Forecast, ...]:
        """What is predicted of each constraint of a study: one posterior is fitted for each.

        One more, if any trial has failed, of whether trials end with a result.
        """
        of_constraints = self._of_constraints(history)
        if not history.failed.any():
            return of_constraints
        ended = np.flatnonzero(history.complete | history.failed)
        margins = np.where(history.failed[ended], -1.0, 1.0)
        trials = Seen(FLAT, points_of(history)[ended])
        kept = telling(trials.points, margins)
        return (*of_constraints, Forecast(fit(trials, margins, scales=_SCALES, kept=kept)))

    def _of_constraints(self, history: History) -> tuple[Forecast, ...]:
        if not history.constraints:
            return ()
        points = points_of(history)
        same: dict[tuple[bytes, bool], Seen] = {}  # usually measured on the same trials
        found = []
        for name, costs in zip(history.constraints, history.costs.T, strict=True):
            rows = np.flatnonzero(~np.isnan(costs))
            learned = bool(_ROBUSTNESS.search(name))
            prior = shipped("robustness") if learned else FLAT
            trials = same.setdefault((rows.tobytes(), learned), Seen(prior, points[rows]))
            margins, scales = (_shares if learned else _typical)(costs[rows])
            near = -np.abs(margins)  # what is near the bound tells most
            kept = telling(trials.points, near)
            found.append(Forecast(fit(trials, margins, scales=scales, kept=kept)))
        return tuple(found)

    def mask(self, history: History, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether moving to each of the cells [M, D] is predicted to be safe enough."""
        return self.p_safe(history, cells) >= self.confidence

    def reliable(
        self, history: History, forecasts: Sequence[Forecast] | None = None
    ) -> NDArray[np.bool_]:
        """[T] which eligible trials are probably safe on the mean over repetitions.

        The likeliest of them if none is; none where no trial is eligible; all in a study without
        noise. A prediction: certified is what was measured, and kept.
        """
        eligible = history.eligible
        if not history.constraints or not eligible.any() or history.repeats_itself:
            return eligible
        known = self.forecasts(history) if forecasts is None else forecasts
        p = _p_all(known, points_of(history), noisy=False)
        return np.asarray(eligible & (p >= min(_LIKELY, p[eligible].max())))

    def risk(self, history: History) -> Risk:
        """What was predicted for every checked trial before it ran, beside what was measured.

        The trials before the first complete one are left out: nothing was known then.
        """
        checked = history.measured & bool(history.constraints)
        checked &= bool(history.lattice.axes)
        found = {row: self.foretold(history, row) for row in np.flatnonzero(checked).tolist()}
        predicted = {row: p for row, p in found.items() if p is not None}
        rows = list(predicted)
        p_safe = np.array(list(predicted.values()), dtype=np.float64)
        return Risk(history.numbers[rows], p_safe, ~history.unsafe[rows])

    def foretold(self, history: History, row: int) -> float | None:
        """P(all constraints hold) at a trial, from those before it; None without a result there."""
        known = history.before(row)
        if not known.complete.any() or not history.lattice.axes:
            return None
        cell = history.cells[row : row + 1]
        return float(self.p_safe(known, cell, self._of_constraints(known))[0])


@dataclass(frozen=True)
class Risk(Tabled):
    """Predicted and observed risk of the N trials whose risk was predicted; prints as a table.

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

    def table(self) -> Table:
        """A row for each trial."""
        from rlhf_tune.tables import Table  # few ask for it

        if not len(self.numbers):
            why = "no risk was predicted: no checked trial came after a complete one"
            return Table((), (), notes=(why,))
        columns = (self.numbers.tolist(), self.p_safe.tolist(), self.safe.tolist())
        return Table(
            ("trial", "predicted P(safe)", "safe"),
            list(zip(*columns, strict=True)),
            title="risk, as predicted before each trial and as measured",
            notes=(f"unsafe trials: {self.predicted:.3g} predicted, {self.observed} observed",),
            shown=50,
        )


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


def _typical(costs: Floats) -> tuple[Floats, tuple[float, ...]]:
    """Margins of costs [T] of any unit, larger is safer, and their scales.

    In typical costs, and compressed beyond (asinh), so that one cost that is a thousand times as
    large hides nothing of the others. Untrusted ones are as bad as the worst. Where no cost is
    negative (flags, excesses), 0 says that the bound is kept but not by how much: by a typical one.
    """
    finite = costs[np.isfinite(costs)]
    sizes = np.abs(finite[finite != 0])
    typical = float(np.median(sizes)) if len(sizes) else 1.0
    largest = float(sizes.max(initial=typical))
    if not (finite < 0).any():
        costs = np.where(costs == 0, -typical, costs)
    return -np.arcsinh(np.clip(costs, -largest, largest) / typical), _SCALES


def _shares(costs: Floats) -> tuple[Floats, tuple[float, ...] | None]:
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
