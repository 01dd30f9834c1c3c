"""Expected improvement: what the next trial alone is expected to gain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlhf_tune.history import History
from rlhf_tune.policy.situation import Situation
from rlhf_tune.surrogate import Surrogate, fit

Floats = NDArray[np.float64]


def q_values(situation: Situation) -> Floats:
    """The expected improvement [M] of the candidate moves on the incumbent."""
    return outlook(situation.history).improvement(situation.incumbent, situation.cells)


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

    Attributes:
        history: The trials.
        performance: [T] their results on the scale of the study; bad where there is none.
        surrogate: Conditioned on the complete ones.
    """

    history: History
    performance: Floats
    surrogate: Surrogate

    def improvement(self, row: int, cells: NDArray[np.int64]) -> Floats:
        """[M] the expected improvement on trial `row` at cells [M, D]; 0 off the lattice."""
        inside = self.history.lattice.inside(cells)
        predicted = self.surrogate.predict(self.history.candidate_features(cells[inside], row))
        result = np.zeros(len(cells))
        best = float(self.performance[row])
        result[inside] = expected_improvement(predicted.mean, predicted.deviation, best)
        return result


def outlook(history: History) -> Outlook:
    """Fit a surrogate to a history with at least one complete trial."""
    performance = scaled_performance(history)
    known = performance[history.complete]
    surrogate = fit(
        history.features()[history.complete],
        known,
        center=float(known.mean()),
        scale=float(known.std()) or 1.0,
    )
    return Outlook(history, performance, surrogate)


def scaled_performance(history: History) -> Floats:
    """[T] results on the scale of the study: median 0, interquartile range 1, bounded by 3.

    Diverged runs would otherwise stretch the scale until all good points look alike.
    """
    low, middle, high = np.nanquantile(history.values, [0.25, 0.5, 0.75])
    spread = high - low if high > low else 1.0
    return np.asarray(np.clip((np.nan_to_num(history.values, nan=low) - middle) / spread, -3, 3))
