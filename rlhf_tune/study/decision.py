"""The decision: where moves start from, which are open, and what each is worth.

The sampler, its explanation and the exported transitions share it, so what is explained and
exported is what was played.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.history import History, untaken
from rlhf_tune.study.planning import ahead
from rlhf_tune.study.policies import Policy
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.risk import Forecast, SafetyChecker, priced
from rlhf_tune.study.space import offsets
from rlhf_tune.study.state import StudyState

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Cells = NDArray[np.int64]

REMEDY = "start from a safe point, lower the threshold, or measure with more samples"
"""For a study in which nothing is feasible."""

# Not tuned:
_FAR_MOVES = 64
_SMALL_LATTICE = 4096  # cells; up to so many are all candidates
_SAFE_STAY = 0.7  # less likely to be safe than this, staying is a risk too


@dataclass(frozen=True)
class Caution:
    """How much risk a study takes; the arguments of `DQNSampler`.

    Attributes:
        checker: Predicts the constraints; its `confidence` masks.
        price: Of an unsafe trial; None neither weights nor masks. The default goes with a
            confidence of .5: both were chosen on validation tasks (`benchmarks/safety.py`).
        max_unsafe: Violating trials after which no risk is taken any more.
    """

    checker: SafetyChecker
    price: float | None = 0.05
    max_unsafe: int | None = None

    def spent(self, history: History) -> bool:
        """Whether no risk is taken any more."""
        return self.max_unsafe is not None and int(history.unsafe.sum()) >= self.max_unsafe

    def least(self, history: History) -> float:
        """The P(safe) that a move needs; while nothing is feasible only the price limits it."""
        if self.spent(history):
            return math.inf
        seeking = self.price is not None and not history.eligible.any()
        return 0.0 if seeking else self.checker.confidence


def incumbent(
    history: History, checker: SafetyChecker, forecasts: tuple[Forecast, ...]
) -> int | None:
    """The row moves start from: the best of the feasible trials that are likely to stay so.

    While no trial is feasible, the least violating complete one; None without any.
    """
    reliable = checker.reliable(history, forecasts)
    if not history.constraints or not reliable.any():
        return history.best()
    return int(np.where(reliable, history.values, -np.inf).argmax())


def mask(history: History, cells: Cells, p_safe: Floats, caution: Caution) -> Bools:
    """[M] which cells [M, D] are untaken and safe enough by `p_safe` [M]; row 0, "stay", always."""
    allowed = untaken(history, cells) & (p_safe >= caution.least(history))
    allowed[0] = True
    return np.asarray(allowed)


def observe(
    history: History,
    caution: Caution,
    *,
    prior: Prior,
    planned_trials: int | None,
    rng: np.random.Generator,
) -> StudyState | None:
    """The state before the next trial; None before any is complete.

    The candidates are the cells around the incumbent, or where all of these are taken, cells of
    the whole lattice, drawn by `rng` if there are too many to list.
    """
    forecasts = caution.checker.forecasts(history)
    row = incumbent(history, caution.checker, forecasts)
    if row is None:
        return None
    cells = history.cells[row] + offsets(history.lattice.shape)
    cells = cells[history.lattice.inside(cells)]
    if not untaken(history, cells)[1:].any():
        cells = np.concatenate([cells[:1], _far_cells(history, rng)])
    p_safe = caution.checker.p_safe(history, cells, forecasts)
    return StudyState(
        history=history,
        incumbent=row,
        cells=cells,
        allowed=mask(history, cells, p_safe, caution),
        p_safe=p_safe,
        prior=prior,
        forecasts=forecasts,
        planned_trials=planned_trials,
    )


def judge(state: StudyState, policy: Policy, caution: Caution) -> tuple[Floats, Bools]:
    """What the candidate moves [M] are worth, and which of them [M] may be chosen.

    When none is worth its risk, not even staying, the safest is taken: it costs least, and what it
    measures may show others to be safe.
    """
    history = state.history
    q = policy.q(state)
    if history.repeats_itself(state.incumbent):
        q = np.concatenate([[0.0], q[1:]])  # without noise there is nothing to average
    if caution.price is None or not history.constraints:
        return q, state.allowed
    value = risk_adjusted(state, q, caution.price)
    if policy.plans:
        value = value + ahead(state, value, caution.price)
    worth = state.allowed & (value >= 0)
    stuck = not worth[1:].any() and state.p_safe[0] < _SAFE_STAY
    if stuck and history.eligible.any():
        return state.p_safe, state.allowed
    return value, worth


def risk_adjusted(state: StudyState, q: Floats, price: float) -> Floats:
    """The values [M] of the candidate moves when an unsafe trial costs `price`.

    While nothing is feasible, the gain of a safe trial is 1, wherever it is.
    """
    feasible = state.history.eligible.any()
    return priced(q if feasible else np.ones(len(q)), state.p_safe, price)


def reasons(state: StudyState, allowed: Bools, caution: Caution) -> list[str]:
    """Why each candidate is masked, "" where it is `allowed` [M]."""
    free, least = untaken(state.history, state.cells), caution.least(state.history)

    def reason(p_safe: float) -> str:
        if math.isinf(least):
            return "unsafe budget spent"
        return "predicted unsafe" if p_safe < least else "not worth its risk"

    return [
        "" if ok else (reason(p_safe) if open_ else "taken")
        for ok, open_, p_safe in zip(allowed, free, state.p_safe, strict=True)
    ]


def hopeless(history: History, allowed: Bools, caution: Caution) -> str:
    """Why no risk may be taken any more and staying helps nobody; "" where neither holds."""
    if caution.spent(history):
        return f"{int(history.unsafe.sum())} trials violated a constraint (`max_unsafe`)"
    if not history.constraints or allowed[1:].any() or history.eligible.any():
        return ""
    return "no trial is feasible, and no move is likely enough to be"


def nothing_eligible(history: History) -> str:
    """Why no trial of a history can be recommended."""
    complete = int(history.complete.sum())
    if not complete:
        return "at least one trial must be complete, but there is none; run the study first"
    checked = history.complete & history.measured
    tried = f"of {complete} complete trials {complete - int(checked.sum())} were not fully checked"
    if checked.any():
        worst = np.where(checked, history.costs.max(axis=1), np.inf)
        row = int(worst.argmin())
        tried += (
            f", and the least violating, number {history.numbers[row]} at "
            f"{dict(history.params[row])}, exceeds its bound by {worst[row]:.3g}"
        )
    return f"no trial satisfies all constraints {list(history.constraints)}: {tried}; {REMEDY}"


def _far_cells(history: History, rng: np.random.Generator) -> Cells:
    """Untried cells [M, D] of the whole lattice, for when all around the incumbent are taken."""
    lattice = history.lattice
    taken = {tuple(cell) for cell in history.cells.tolist()}
    drawn = rng.integers(np.array(lattice.shape), size=(_FAR_MOVES, len(lattice.shape)))
    if lattice.size <= _SMALL_LATTICE:
        drawn = np.argwhere(np.ones(lattice.shape, dtype=np.bool_))
    return drawn[[tuple(cell) not in taken for cell in drawn.tolist()]]
