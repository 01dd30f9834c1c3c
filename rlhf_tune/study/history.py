"""The trials of a study as arrays.

Everything here is a pure function of the trials, so a resumed study, a second worker and
``study.add_trial`` all give the same experience.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.study.damage import sound
from rlhf_tune.study.space import Lattice, contains
from rlhf_tune.study.workers import params_of, stale, was_killed

if TYPE_CHECKING:
    from rlhf_tune.study.belief import Belief

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

PREFERENTIAL = "preference:is_preferential"
"""The system attribute by which optuna-dashboard tells its preferential studies."""


_LARGEST = 1e100
_NO_COSTS: Mapping[str, float] = {}


@dataclass(frozen=True, eq=False)
class History:
    """T trials in order of their number.

    Attributes:
        lattice: The lattice their parameters are projected on.
        numbers: [T] trial numbers.
        params: T mappings of all parameters, as the objective received them.
        cells: [T, D] nearest lattice cells.
        positions: [T, D] their own coordinates, not those of their cells.
        others: [T, U] codes of the parameters that are not on the lattice, -1 where absent.
        values: [T] what was measured, larger is better, finite; NaN without a result.
        costs: [T, K] constraint values, inf where untrusted, NaN where unchecked.
        constraints: The K constraint names.
        blocked: [T] whether the point is taken: tried, or running elsewhere.
        failed: [T] whether the trial ended without a result, by an exception or by NaN.
        running: [T] whether it is running elsewhere.
        again: [T] whether its process was killed, and nothing else was tried at its point.
        judged: Whether the values are utilities, from what people said.
        belief: Where these rest on comparisons alone, what those say of any point.
    """

    lattice: Lattice
    numbers: Ints
    params: tuple[Mapping[str, Any], ...]
    cells: Ints
    positions: Floats
    others: Ints
    values: Floats
    costs: Floats
    constraints: tuple[str, ...]
    blocked: Bools
    failed: Bools
    running: Bools
    again: Bools
    judged: bool = False
    belief: Belief | None = None

    @cached_property
    def complete(self) -> Bools:
        """[T] whether a trial has a result."""
        return _fixed(~np.isnan(self.values))

    @property
    def measured(self) -> Bools:
        """[T] whether every constraint of the study was measured."""
        return np.asarray(~np.isnan(self.costs).any(axis=1))

    @cached_property
    def eligible(self) -> Bools:
        """[T] whether a trial may be recommended: complete, fully checked and feasible."""
        return _fixed(self.complete & (self.costs <= 0).all(axis=1))

    @property
    def unsafe(self) -> Bools:
        """[T] whether a constraint was measured and violated."""
        return np.asarray((self.costs > 0).any(axis=1))

    def best(self) -> int | None:
        """The row of the best eligible trial as measured, the earlier one among equals.

        While no trial is eligible, the least violating complete one; None without any.
        """
        if self.eligible.any():
            return int(np.where(self.eligible, self.values, -np.inf).argmax())
        if not self.complete.any():
            return None
        worst = np.where(np.isnan(self.costs), np.inf, self.costs).max(axis=1, initial=-np.inf)
        ranked = np.where(self.complete, worst, np.nan)
        tied = ranked == np.nanmin(ranked)
        return int(np.where(tied, self.values, -np.inf).argmax())

    def measured_at(self, row: int) -> Floats:
        """[R] all results at a trial's point."""
        here = (self.positions == self.positions[row]).all(axis=1)
        same = here & (self.others == self.others[row]).all(axis=1) & self.complete
        return np.asarray(self.values[same])

    def params_at(self, row: int) -> dict[str, Any]:
        """A trial's own parameters as the latest ranges allow; they need not be a cell's."""
        params = self.params[row]
        return {
            axis.name: params[axis.name]
            if contains(axis.distribution, params[axis.name])
            else axis.values[i]
            for axis, i in zip(self.lattice.axes, self.cells[row].tolist(), strict=True)
        }

    @cached_property
    def repeats_itself(self) -> bool:
        """Whether some point was measured again, and each gave what it gave before."""
        points = np.column_stack([self.positions, self.others])[self.complete]
        results = np.column_stack([self.values, self.costs])[self.complete]
        first: dict[bytes, int] = {}  # NumPy's unique rows take ten times as long
        which = [first.setdefault(point, row) for row, point in enumerate(keys(points))]
        again = len(first) < len(points)
        return again and np.array_equal(results, results[which], equal_nan=True)

    @cached_property
    def taken(self) -> Mapping[bytes, int]:
        """The row that first took each cell that was tried or is running elsewhere, by `keys`.

        Rows from T on are those of a longer history, of which this one is the beginning.
        """
        rows = np.flatnonzero(self.blocked)[::-1]
        return dict(zip(keys(self.cells[rows]), rows.tolist(), strict=True))

    def features(self) -> Floats:
        """[T, E] trials as a surrogate sees them: coordinates in length scales, and others.

        The other columns are one-hot, and put trials with another unordered value one length
        scale apart.
        """
        codes = [column[:, None] == np.unique(column) for column in self.others.T]
        scaled = self.lattice.in_length_scales(self.positions)
        return np.column_stack([scaled, *(c / math.sqrt(2) for c in codes)])

    def columns(self) -> list[list[int]]:
        """The columns of the features of each parameter of a lattice of three or more."""
        axes = self.lattice.axes
        if len(axes) < 3:  # these matter, as all tasks show
            return []
        start, found = len(axes), []
        for d, axis in enumerate(axes):
            width = 0 if axis.ordered else len(axis.values)
            found.append(list(range(start, start + width)) or [d])
            start += width
        return found

    def candidate_features(self, cells: Ints, row: int) -> Floats:
        """[M, E] the same for lattice cells [M, D], with the unordered values of trial `row`."""
        scaled = self.lattice.in_length_scales(self.lattice.positions(cells))
        rest = self.features()[row, scaled.shape[1] :]
        return np.column_stack([scaled, np.repeat(rest[None], len(cells), axis=0)])

    def refined(self, row: int) -> History:
        """Over a lattice with further cells around a trial's; itself where there are none."""
        finer = self.lattice.refined(self.cells[row].tolist())
        if finer is self.lattice:
            return self
        return replace(self, lattice=finer, cells=finer.cells(self.positions))

    def before(self, row: int) -> History:
        """The history of the first `row` trials; its arrays are views, so all take linear time."""
        first = self._of(slice(row), self.params[:row])
        vars(first)["taken"] = self.taken  # collected once for all beginnings of a history
        return first

    def only(self, rows: Sequence[int]) -> History:
        """The history of some of the trials."""
        chosen = np.asarray(rows, dtype=np.int64)
        return self._of(chosen, tuple(self.params[row] for row in chosen))

    def _of(self, rows: slice | Ints, params: tuple[Mapping[str, Any], ...]) -> History:
        of_all = {"lattice", "constraints", "judged", "belief", "params"}
        by_trial = set(self.__dataclass_fields__) - of_all
        arrays = {name: getattr(self, name)[rows] for name in by_trial}
        return replace(self, params=params, **arrays)


def keys(rows: NDArray[Any]) -> list[bytes]:
    """A key for each row of an array [T, D], equal where rows are; quicker than tuples."""
    if not rows.shape[1]:
        return [b""] * len(rows)
    whole = np.dtype((np.void, rows.shape[1] * rows.itemsize))
    found: list[bytes] = np.ascontiguousarray(rows).view(whole)[:, 0].tolist()
    return found


def _fixed(computed: Bools) -> Bools:
    """What is computed once and shared must not be written to."""
    computed.flags.writeable = False
    return computed


def is_preferential(study: Study) -> bool:
    """Whether what people say takes the place of values in a study (`study/preferences.py`)."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return bool(attributes.get(PREFERENTIAL, False))


def common_space(trials: Sequence[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The parameters that all complete trials share, with their latest ranges.

    While none is complete, those that all trials share. Unlike Optuna's intersection this keeps a
    parameter whose range changed: earlier values are projected on the latest range.
    """
    known = [t for t in trials if t.distributions]
    used = [t for t in known if t.state == TrialState.COMPLETE] or known
    if not used:
        return {}
    names: Set[str] = used[0].distributions.keys()
    for trial in used:
        if trial.distributions.keys() != names:  # seldom, and sets are dear to the collector
            names = names & trial.distributions.keys()
    return {name: used[-1].distributions[name] for name in sorted(names)}


def read(
    trials: Sequence[FrozenTrial],
    lattice: Lattice,
    direction: StudyDirection,
    *,
    ignore: int | None = None,
) -> History:
    """The history of a study's trials.

    Failed and pruned trials are experience without a result: their points count as tried.
    Infinite values are replaced by the worst or best finite one.

    Args:
        trials: As ``study.get_trials(deepcopy=False)`` gives them.
        lattice: The lattice to project on; trials that lack one of its parameters are left out.
        direction: Of the study.
        ignore: The number of the trial that is being proposed.
    """
    trials = sound(trials)
    space = {axis.name: axis.distribution for axis in lattice.axes}
    names = space.keys()
    # No list of pairs: ten thousand small objects wake the garbage collector.
    used: list[FrozenTrial] = []
    params: list[Mapping[str, Any]] = []
    for trial in trials:
        found = params_of(trial, space)
        if trial.number != ignore and names <= found.keys():
            used.append(trial)
            params.append(found)
    costs = [t.constraints if t.system_attrs else _NO_COSTS for t in used]
    constraints = tuple(sorted({key for cost in costs for key in cost}))
    rows = [[cost_of(cost, key) for key in constraints] for cost in costs] if constraints else []
    numbers = np.array([t.number for t in used], dtype=np.int64)
    states = np.array([t.state for t in used], dtype=np.int64)
    finished = (states != TrialState.RUNNING) & (states != TrialState.WAITING)
    blocked = finished | (numbers > stale(trials))
    positions = lattice.positions_of(params)
    once, again = _lost(used, positions)
    return History(
        lattice=lattice,
        numbers=numbers,
        params=tuple(params),
        cells=lattice.cells(positions),
        positions=positions,
        others=_codes(params, names),
        values=_finite(_values(used, direction)),
        costs=np.array(rows, dtype=np.float64).reshape(len(used), len(constraints)),
        constraints=constraints,
        blocked=blocked,
        failed=(states == TrialState.FAIL) & ~once,
        running=blocked & ~finished,
        again=again,
    )


def _lost(trials: Sequence[FrozenTrial], positions: Floats) -> tuple[Bools, Bools]:
    """[T] which trials were the first to be killed at their point, and which the only ones there.

    The death of one process says nothing of a point; that of two does.
    """
    once, again = np.zeros((2, len(trials)), dtype=np.bool_)
    killed = np.array([was_killed(t) for t in trials], dtype=np.bool_)
    for row in np.flatnonzero(killed).tolist():
        here = (positions == positions[row]).all(axis=1)
        once[row] = (here & killed).sum() == 1
        again[row] = here.sum() == 1
    return once, again


def untaken(history: History, cells: Ints) -> Bools:
    """[M] whether candidate cells [M, D] are on the lattice and not taken; row 0, "stay", is."""
    free = history.lattice.inside(cells)
    taken, end = history.taken, len(history.cells)
    free &= np.array([taken.get(cell, end) >= end for cell in keys(cells)], dtype=np.bool_)
    free[0] = True
    return free


def _values(trials: Sequence[FrozenTrial], direction: StudyDirection) -> Floats:
    """[T] results, larger is better; NaN where there is none."""
    done = TrialState.COMPLETE
    results = [t.values[0] if t.state == done else math.nan for t in trials]
    sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
    return sign * np.array(results, dtype=np.float64)


def _finite(values: Floats) -> Floats:
    """Replace infinities by the extreme finite values, so that arithmetic stays meaningful.

    What is so large that its square is infinite counts as the largest whose is not.
    """
    finite = np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST)
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return np.where(np.isnan(values), values, np.clip(values, low, high))


def costs_of(trial: FrozenTrial) -> dict[str, float]:
    """A trial's costs by constraint; infinite where what is stored is none."""
    costs = {name: cost_of(trial.constraints, name) for name in trial.constraints}
    return {name: math.inf if math.isnan(cost) else cost for name, cost in costs.items()}


def cost_of(constraints: Mapping[str, Any], key: str) -> float:
    """One of them; NaN where it was not measured."""
    cost = constraints.get(key)
    if cost is None:
        return math.nan
    if not isinstance(cost, int | float):  # damaged: what it was is not known
        return math.inf
    return math.inf if math.isnan(cost) else float(cost)


def _codes(params: Sequence[Mapping[str, Any]], known: Collection[str]) -> Ints:
    """[T, U] a code for each value of each parameter that is not `known`; -1 where absent."""
    names = sorted({name for p in params if len(p) > len(known) for name in p} - set(known))
    codes = np.full((len(params), len(names)), -1, dtype=np.int64)
    for column, name in enumerate(names):
        seen: dict[str, int] = {}
        for row, p in enumerate(params):
            if name in p:
                codes[row, column] = seen.setdefault(repr(p[name]), len(seen))
    return codes
