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
from rlhf_tune.history import History
from rlhf_tune.safety.constraint import Constraint, Measurement
from rlhf_tune.space import DEFAULTS, Role
from rlhf_tune.surrogate import Surrogate, condition

# The prior of a cost that is a difference of shares (accuracies, leakage, fairness gaps), fitted
# to FGSM costs of the train tasks: python -m benchmarks.safety --fit-prior. The mean was rounded
# by studies on those tasks; its constant depends on the threshold (.1 and 1.1 at the percentiles).
_SCALE = 0.15  # prior deviation; the other figures are relative to it or its square
_LENGTH = 1.4  # decades of learning rate / batch size
_BATCH_LENGTH = 4.0  # decades of batch size at the same ratio
_NOISES = (0.005, 0.05, 0.2)  # variances of a second training seed; the middle is the prior's
_MEAN = (0.2, -0.13, 0.07)  # constant, per decade of learning rate above 1e-3, per squared decade
_DEGREES = 3.0  # how many residuals the scale is worth
_LIKELY = 0.5  # P(safe) from which a feasible trial is believed to be so

Floats = NDArray[np.float64]


class SafetyChecker:
    """Asks c(s, a) <= 0 before acting, and measures it after.

    Attributes:
        confidence: The P(safe) below which a move is masked.
    """

    def __init__(self, constraints: Sequence[Constraint] = (), *, confidence: float = 0.5) -> None:
        """Check `constraints`, and mask moves whose predicted P(safe) is below `confidence`.

        Raises:
            InvalidInputError: If `confidence` is not within [0, 1).
        """
        if not 0 <= confidence < 1:
            raise InvalidInputError(f"`confidence` must be within [0, 1), but got {confidence}")
        self._constraints = tuple(constraints)
        self.confidence = confidence

    def measure(self, model: Any) -> dict[str, Measurement]:
        """Measure every constraint on a model; keyed by the measurements' names.

        Raises:
            InvalidInputError: If two constraints have the same name.
        """
        measurements = [constraint(model) for constraint in self._constraints]
        by_name = {m.name: m for m in measurements}
        if len(by_name) < len(measurements):
            names = [m.name for m in measurements]
            raise InvalidInputError(
                f"constraints must have different names, but got {names}; name them apart"
            )
        return by_name

    def p_safe(self, history: History, cells: NDArray[np.int64]) -> Floats:
        """The predicted probability [M] that a trial at lattice cells [M, D] is safe.

        Each constraint has a Gaussian process of its own, with a prior from other tasks. It is
        recalibrated online: where the one-step-ahead residuals of this study's own trials are
        larger than predicted, its deviations grow, and the tail is a Student t's. A study without
        constraints is safe everywhere.
        """
        row = history.incumbent()
        if row is None:
            return np.ones(len(cells))
        queries = history.candidate_features(cells, row)
        return _p_all(history, queries, history.lattice.positions(cells), noisy=True)

    def mask(self, history: History, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether moving to each of the cells [M, D] is predicted to be safe enough."""
        return self.p_safe(history, cells) >= self.confidence

    def certified(self, history: History) -> NDArray[np.bool_]:
        """[T] which eligible trials are probably safe on the mean over repetitions.

        The likeliest of them if none is; none where no trial is eligible.
        """
        eligible = history.eligible
        if not history.constraints or not eligible.any():
            return eligible
        p = _p_all(history, history.features(), history.positions, noisy=False)
        return np.asarray(eligible & (p >= min(_LIKELY, p[eligible].max())))

    def risk(self, history: History) -> Risk:
        """What was predicted for every checked trial before it ran, beside what was measured.

        The trials before the first complete one are left out: nothing was known then.
        """
        checked = history.measured & bool(history.constraints)
        rows = [
            row
            for row in np.flatnonzero(checked).tolist()
            if history.before(row).incumbent() is not None
        ]
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


def _p_all(history: History, queries: Floats, positions: Floats, *, noisy: bool) -> Floats:
    """The probability [M] that all constraints hold at features [M, E], positions [M, D].

    With `noisy`, that a measurement there says so; without, that the mean over measurements does.
    """
    p = np.ones(len(queries))
    known, queries = (_decorrelated(history, rows) for rows in (history.features(), queries))
    here, there = _shape(history, history.positions), _shape(history, positions)
    for costs in history.costs.T:
        rows = ~np.isnan(costs)
        model = _condition(known[rows], _scaled(costs[rows]) - here[rows])
        p *= _p_satisfied(model, queries, there, noisy=noisy)
    return p


def _condition(features: Floats, targets: Floats) -> Surrogate:
    """The process given targets [T] at features [T, E], with the most probable noise."""
    candidates = [
        condition(features, targets, center=0.0, scale=1.0, length=_LENGTH, noise=noise)
        for noise in _NOISES
    ]
    return max(candidates, key=_log_posterior)


def _log_posterior(model: Surrogate) -> float:
    """Of a noise: the Student-t evidence times a log-normal prior around the middle one."""
    squares = float(model.residuals @ model.residuals)
    degrees = _DEGREES + len(model.residuals)
    log_evidence = -0.5 * (model.log_determinant + degrees * math.log1p(squares / _DEGREES))
    return log_evidence - 0.1 * math.log10(model.noise / _NOISES[1]) ** 2


def _p_satisfied(model: Surrogate, queries: Floats, shape: Floats, *, noisy: bool) -> Floats:
    """P(c <= 0) [M] where the prior mean is shape [M].

    A Student t whose scale is that of the one-step-ahead residuals, though never below the prior.
    Source: the Student-t process of Shah, Wilson and Ghahramani (2014), arXiv:1402.4306.
    """
    predicted, residuals = model.predict(queries, noisy=noisy), model.residuals
    degrees = _DEGREES + len(residuals)
    inflation = math.sqrt(max(1.0, (_DEGREES + float(residuals @ residuals)) / degrees))
    return np.asarray(stdtr(degrees, -(shape + predicted.mean) / (predicted.deviation * inflation)))


def _scaled(costs: Floats) -> Floats:
    """Costs [T] in units of their prior deviation; the untrusted become finite.

    Costs within [-1, 1] are taken for differences of shares, others are judged by themselves.
    """
    finite = costs[np.isfinite(costs)]
    largest = float(np.abs(finite).max(initial=0.0))
    scale = _SCALE if largest <= 1 else math.sqrt(float((finite**2).mean()))
    ceiling = max(largest, 2 * scale)
    return np.clip(costs, -ceiling, ceiling) / scale


def _decorrelated(history: History, features: Floats) -> Floats:
    """Features [M, E] with learning rate / batch size, on which results mainly depend.

    Source: the linear scaling rule, Goyal et al. (2017), arXiv:1706.02677.
    """
    rate, batch = _axis(history, "learning_rate"), _axis(history, "batch_size")
    result = features.copy()
    if rate is not None and batch is not None:
        result[:, rate] -= features[:, batch]
        result[:, batch] *= _LENGTH / _BATCH_LENGTH
    return result


def _shape(history: History, positions: Floats) -> Floats:
    """[M] the prior mean at positions [M, D], in prior deviations."""
    constant, slope, curvature = _MEAN
    rate = _axis(history, "learning_rate")
    if rate is None:
        return np.full(len(positions), constant)
    decades = positions[:, rate] - math.log10(DEFAULTS["learning_rate"])
    return np.asarray(constant + slope * decades + curvature * decades**2)


def _axis(history: History, role: Role) -> int | None:
    """The first logarithmic axis of a role."""
    axes = history.lattice.axes
    return next((d for d, axis in enumerate(axes) if axis.role == role and axis.log), None)
