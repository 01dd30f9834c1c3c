"""The decision: where moves start from, which are open, and what each is worth.

The sampler, its explanation and the exported transitions share it, so what is explained and
exported is what was played.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.study.history import History, untaken
from rlhf_tune.study.planning import ahead
from rlhf_tune.study.policies import Policy, expected_improvement
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.risk import Forecast, SafetyChecker, priced
from rlhf_tune.study.state import StudyState

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Cells = NDArray[np.int64]

REMEDY = "start from a safe point, lower the threshold, or measure with more samples"
"""For a study in which nothing is feasible."""

# Not tuned:
_FAR_MOVES = 128
_SMALL_LATTICE = 4096  # cells; up to so many are all candidates, once none near are left
_WIDE_FROM = 8  # complete trials; from then on candidates are looked for beyond the moves
_COMPARED = 1024  # the same, where trials are compared, not measured: a local search is too greedy
_BEST, _AROUND = 3, 64  # so many around each of the best
_REFINEMENTS = 40
_REPEATS = 3  # of one point, where nothing else is worth its risk
_SAFE_STAY = 0.7  # less likely to be safe than this, staying is a risk too
# The P(safe) of points that are tried before a study ends, however little they promise; that a
# trial may fail ends none.
_CLEAR = 0.9
_FEW, _ALIKE = 3, 4.0  # so many trials, within so many deviations of noise, are a plateau
_FLAT = 0.01  # where P(safe) differs by less than this, it leads nowhere
_LOWER = 1e-3  # of P(safe), that a decade less of learning rate is worth


@dataclass(frozen=True)
class Caution:
    """How much risk a study takes; the arguments of `DQNSampler`.

    Attributes:
        checker: Predicts the constraints; its `confidence` masks.
        price: Of an unsafe trial; None neither weights nor masks. The default goes with a
            confidence of .5: it was chosen on validation tasks (`benchmarks/frontier.py`).
        max_unsafe: Violating trials after which no risk is taken any more.
    """

    checker: SafetyChecker
    price: float | None = 0.01
    max_unsafe: int | None = None

    def spent(self, history: History) -> bool:
        """Whether no risk is taken any more."""
        return self.max_unsafe is not None and int(history.unsafe.sum()) >= self.max_unsafe

    def least(self, history: History) -> float:
        """The P(safe) that a move needs; none while nothing is feasible."""
        if self.spent(history):
            return math.inf
        return self.checker.confidence if history.eligible.any() else 0.0


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

    The candidates are the cells around the incumbent; in a lattice that has been refined there
    while all of its neighbours were taken. Later in a study, and while nothing is feasible, they
    are also cells of the whole lattice, drawn by `rng` if there are too many to list.
    """
    forecasts = caution.checker.forecasts(history)
    row = incumbent(history, caution.checker, forecasts)
    if row is None:
        return None
    history = _refined(history, row)
    cells = _candidates(history, row, rng)
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


def choose(
    state: StudyState,
    value: Floats,
    allowed: Bools,
    *,
    epsilon: float,
    rng: np.random.Generator,
    leave: int = 0,
) -> int | None:
    """The row of the move to make: the best by `value` [M], at random with probability `epsilon`.

    The best `leave` of the `allowed` [M] are left to trials that others are about to begin, and
    "stay" to one that runs already. None if nothing is left.
    """
    rest = allowed.copy()
    rest[0] &= not _runs(state)
    best = np.argsort(-np.where(rest, value, -np.inf), kind="stable")[: min(leave, rest.sum())]
    rest[best] = False
    return epsilon_greedy(value, rest, epsilon, rng) if rest.any() else None


def repeatable(state: StudyState, leave: int = 0) -> int:
    """The row of a trial to repeat where workers are more than moves: the best that none repeats.

    Under noise its mean gains by it, at no new risk; without, or where all are taken, it is the
    incumbent.
    """
    history = state.history
    may = history.eligible if history.eligible.any() else history.complete
    busy = {tuple(cell) for cell in history.cells[history.running].tolist()}
    ranked = np.argsort(-np.where(may, history.values, -np.inf), kind="stable")[: may.sum()]
    points = dict.fromkeys(tuple(cell) for cell in history.cells[ranked].tolist())
    free = [point for point in points if point not in busy]
    if history.repeats_itself or leave >= len(free):
        return state.incumbent
    return int(ranked[(history.cells[ranked] == free[leave]).all(axis=1)][0])


def judge(state: StudyState, policy: Policy, caution: Caution) -> tuple[Floats, Bools]:
    """What the candidate moves [M] are worth, and which of them [M] may be chosen.

    While nothing is feasible, the likeliest to be so is looked for. After that, where no move is
    worth its risk, the incumbent is measured again, unless this is a risk too or shows nothing
    new: then the best move that is clearly safe is taken or, where staying is a risk, the safest.
    If only staying is left, the study has nothing more to find.
    """
    history = state.history
    if not history.eligible.any():
        return _seeking(state)
    compared = history.belief is not None
    q = expected_improvement(state) if compared and policy.epsilon < 1 else policy.q(state)
    allowed, settled = state.allowed, compared or _settled(state) or _runs(state)
    # Nothing to average, being averaged elsewhere, or none can compare a trial with itself.
    if history.repeats_itself or _runs(state) or compared:
        q = np.concatenate([[0.0], q[1:]])
        allowed = _but_stay(allowed)
    if caution.price is None or not state.forecasts:
        return q, allowed
    value = priced(q, state.p_safe, caution.price)
    if policy.plans:
        value = value + ahead(state, value, caution.price)
    worth = allowed & (value >= 0)
    safe_to_stay = history.repeats_itself or state.p_safe[0] >= _SAFE_STAY
    if worth[1:].any() or (safe_to_stay and not settled):
        return (_ranked(state, value) if policy.epsilon < 1 else value), worth
    clear = _but_stay(allowed)
    if history.constraints:
        clear &= state.p_safe >= max(_CLEAR, caution.checker.confidence)
    if clear[1:].any():
        return np.where(clear, q * state.p_safe, value), clear
    stay = np.arange(len(value)) == 0
    return (value, stay) if safe_to_stay else (state.p_safe, allowed)


def _settled(state: StudyState) -> bool:
    """Whether to measure the incumbent again is not worth a trial."""
    history = state.history
    return history.repeats_itself or len(history.measured_at(state.incumbent)) >= _REPEATS


def _runs(state: StudyState) -> bool:
    """Whether a point is being measured again elsewhere; to average is one worker's job."""
    history = state.history
    done, again = history.positions[history.complete], history.positions[history.running]
    at_incumbent = (history.cells[history.running] == state.cells[0]).all(axis=1)
    return bool(at_incumbent.any() or any((done == there).all(axis=1).any() for there in again))


def _ranked(state: StudyState, value: Floats) -> Floats:
    """[M] values; on a plateau of a few alike trials less what the luck of noise alone promises.

    Luck has no price, and risk has: a plateau that is safe would hold a study.
    """
    values, surrogate = state.history.values[state.history.eligible], state.outlook.surrogate
    noise = surrogate.scale * math.sqrt(surrogate.noise)
    if len(values) < _FEW or np.ptp(values) >= _ALIKE * noise:
        return value
    return value * state.outlook.novelty(state.incumbent, state.cells)


def _seeking(state: StudyState) -> tuple[Floats, Bools]:
    """Towards where P(safe) is largest, of two such places the lower rate; if flat, far away."""
    history, allowed = state.history, _but_stay(state.allowed)
    if np.ptp(state.p_safe[allowed]) < _FLAT:
        return remoteness(history, state.cells), allowed
    rates = history.lattice.positions(state.cells)[:, _rates(history)].sum(axis=1)
    return state.p_safe - _LOWER * rates, allowed


def _but_stay(allowed: Bools) -> Bools:
    """Without "stay" (row 0), unless there is nothing else."""
    moves = allowed.copy()
    moves[0] = not allowed[1:].any()
    return moves


def remoteness(history: History, cells: Cells) -> Floats:
    """[M] how far cells [M, D] are from all trials, in length scales, learning rates first.

    Of those that are equally far, one of lower rates is slightly farther.
    """
    lattice = history.lattice
    rates = _rates(history)
    tried, here = (
        lattice.in_length_scales(p) for p in (history.positions, lattice.positions(cells))
    )
    for features in (tried, here):
        features[:, rates] *= 2
    return np.asarray(cdist(here, tried).min(axis=1) - 1e-6 * here[:, rates].sum(axis=1))


def _rates(history: History) -> list[int]:
    """The axes that are learning rates."""
    return [d for d, axis in enumerate(history.lattice.axes) if axis.role == "learning_rate"]


def _refined(history: History, row: int) -> History:
    """Over a lattice with finer steps around the incumbent, while all steps there are taken."""
    for _ in range(_REFINEMENTS):
        axes = len(history.lattice.axes)
        steps = np.concatenate([np.zeros((1, axes), np.int64), np.eye(axes, dtype=np.int64)])
        around = history.cells[row] + np.concatenate([steps, -steps[1:]])
        finer = history if untaken(history, around)[1:].any() else history.refined(row)
        if finer is history:
            break
        history = finer
    return history


def _candidates(history: History, row: int, rng: np.random.Generator) -> Cells:
    """[M, D] the moves of the incumbent, and what is looked at beyond them."""
    cells = history.cells[row] + history.lattice.offsets()
    cells = cells[history.lattice.inside(cells)]
    late = history.belief is not None or int(history.complete.sum()) >= _WIDE_FROM
    lost = not (history.eligible.any() and untaken(history, cells)[1:].any())
    if late or lost:
        far = far_cells(history, rng)
        most = _FAR_MOVES if history.belief is None else _COMPARED
        some = far if lost else rng.permutation(far)[:most]
        cells = np.concatenate([cells, some, *(_near_best(history, rng) if late else [])])
        _, first = np.unique(_codes(history, cells), return_index=True)
        cells = cells[np.sort(first)]
    return np.asarray(cells)


def _codes(history: History, cells: Cells) -> NDArray[np.float64]:
    """[M] a number for each cell [M, D] of the lattice; of huge ones two may share theirs."""
    shape = np.array(history.lattice.shape, dtype=np.float64)
    return np.asarray(cells @ np.concatenate([[1.0], np.cumprod(shape)[:-1]]))


def _near_best(history: History, rng: np.random.Generator) -> list[Cells]:
    """Cells [N, D] that differ from the best trials in any number of parameters."""
    shape = np.array(history.lattice.shape)
    if len(shape) < 3:  # moves are all there is
        return []
    ranked = np.argsort(-np.where(history.eligible, history.values, -np.inf), kind="stable")
    size = (_BEST * _AROUND, len(shape))
    sizes = 2 ** rng.integers(0, np.maximum(np.log2(shape).astype(np.int64), 1), size=size)
    steps = sizes * rng.integers(-1, 2, size=size)
    cells = np.repeat(history.cells[ranked[:_BEST]], _AROUND, axis=0)
    cells = cells + steps[: len(cells)]
    return [cells[history.lattice.inside(cells)]]


def reasons(state: StudyState, allowed: Bools, caution: Caution) -> list[str]:
    """Why each candidate is masked, "" where it is `allowed` [M]."""
    free, least = untaken(state.history, state.cells), caution.least(state.history)

    def reason(p_safe: float) -> str:
        if math.isinf(least):
            return "unsafe budget spent"
        return "predicted unsafe" if p_safe < least else "not worth its risk"

    found = [
        "" if ok else (reason(p_safe) if open_ else "taken")
        for ok, open_, p_safe in zip(allowed, free, state.p_safe, strict=True)
    ]
    return [found[0] and "taken", *found[1:]]


def nothing_left(state: StudyState, allowed: Bools, caution: Caution) -> str:
    """Why a study has nothing more to find, if only staying is `allowed` [M]; else ""."""
    history = state.history
    if caution.spent(history):
        violated = int(history.unsafe.sum())
        return f"{violated} trials violated a constraint (`max_unsafe`); to go on, {REMEDY}"
    if allowed[1:].any() or not history.constraints:
        return ""
    if not history.eligible.any():
        return f"no trial is feasible, and every candidate was tried; to go on, {REMEDY}"
    if not _settled(state):
        return ""
    left = untaken(history, state.cells)[1:].any()
    why = "is worth its risk" if left else "is left"
    remedy = "lower `price` and `confidence`, or widen the ranges" if left else "widen the ranges"
    told = f"no untried point {why}, and repeating the best one shows nothing new"
    return f"{told}; to go on, {remedy}"


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
        name = history.constraints[int(history.costs[row].argmax())]
        tried += (
            f", and the least violating, trial {history.numbers[row]} at "
            f"{dict(history.params[row])}, misses the bound of {name!r} by {worst[row]:.3g}"
        )
    return f"no trial satisfies all constraints {list(history.constraints)}: {tried}; {REMEDY}"


def far_cells(history: History, rng: np.random.Generator) -> Cells:
    """Untried cells [M, D] of the whole lattice, all of a small one."""
    lattice = history.lattice
    if lattice.size <= _SMALL_LATTICE:
        drawn = np.argwhere(np.ones(lattice.shape, dtype=np.bool_))
    else:
        drawn = rng.integers(np.array(lattice.shape), size=(_FAR_MOVES, len(lattice.shape)))
    taken = _codes(history, history.cells[history.blocked])
    return np.asarray(drawn[~np.isin(_codes(history, drawn), taken)])
