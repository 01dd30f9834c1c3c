"""Measures the constraints of a model, and predicts them for moves that were not made yet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.history import History
from rlhf_tune.safety.constraint import Constraint, Measurement
from rlhf_tune.surrogate import fit

_PRIOR = -0.43  # standard deviations below the bound; P(c <= 0) = 2/3


class SafetyChecker:
    """Asks c(s, a) <= 0 before acting, and measures it after."""

    def __init__(self, constraints: Sequence[Constraint] = (), *, confidence: float = 0.5) -> None:
        """Check `constraints`, and mask moves whose predicted P(safe) is below `confidence`.

        Raises:
            InvalidInputError: If `confidence` is not within [0, 1).
        """
        if not 0 <= confidence < 1:
            raise InvalidInputError(f"`confidence` must be within [0, 1), but got {confidence}")
        self._constraints = tuple(constraints)
        self._confidence = confidence

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

    def p_safe(self, history: History, cells: NDArray[np.int64]) -> NDArray[np.float64]:
        """The predicted probability [M] that every constraint holds at lattice cells [M, D].

        Each constraint has a Gaussian process of its own, whose prior says that two thirds of
        the space are safe; a study without constraints is safe everywhere.
        """
        p = np.ones(len(cells))
        row = history.incumbent()
        if row is None:
            return p
        queries, known = history.candidate_features(cells, row), history.features()
        for column in range(len(history.constraints)):
            costs = history.costs[:, column]
            rows = ~np.isnan(costs)
            p *= _p_satisfied(known[rows], costs[rows], queries)
        return p

    def mask(self, history: History, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[M] whether moving to each of the cells [M, D] is predicted to be safe enough."""
        return self.p_safe(history, cells) >= self._confidence


def _p_satisfied(
    positions: NDArray[np.float64], costs: NDArray[np.float64], queries: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P(c <= 0) [M], from costs [T] at positions [T, E], which may be infinite."""
    finite = np.abs(costs[np.isfinite(costs)])
    ceiling = float(finite.max(initial=0.0)) or 1.0
    clipped = np.clip(costs, -ceiling, ceiling)
    scale = math.sqrt(float((clipped**2).mean())) or 1.0
    predicted = fit(positions, clipped, center=_PRIOR * scale, scale=scale).predict(queries)
    return np.asarray(ndtr(-predicted.mean / predicted.deviation))
