"""What workers that share a storage know of each other.

A trial has no parameters until its objective asks for them, so workers that ask together would all
take the same best point. Two rules keep them apart, without a lock:

- A suggestion leaves the best points to the running trials of lower number that have none yet.
- It writes its point to the trial (`claim`), and then reads the storage again: of two trials that
  took the same point because they saw different studies, at least one sees the other and chooses
  anew. (Whoever writes before reading is seen by whoever reads after; Dijkstra 1965, Dekker's
  algorithm, but nobody waits, so a dead worker holds up none.)

The same mark tells a trial whose process died from one whose objective raised: the sampler is told
of the second, and writes that down; a heartbeat retires the first without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

_POINT = "rlhf_tune:point"
_TOLD = "rlhf_tune:told"
_FIXED = "fixed_params"  # of a trial that was enqueued

STALE_AFTER = 32
"""Each worker begins so many trials until one that still runs blocks its point no more."""

_LATEST = 8 * STALE_AFTER  # among so many trials workers are counted, slow ones too


def claim(
    study: Study, trial: FrozenTrial, params: Mapping[str, Any], space: Mapping[str, Any]
) -> None:
    """Write the point of a trial where other workers see it before its objective asks for it."""
    point = {name: space[name].to_internal_repr(value) for name, value in params.items()}
    study._storage.set_trial_system_attr(trial._trial_id, _POINT, point)


def tell_failure(study: Study, trial: FrozenTrial) -> None:
    """Write down that a trial ended by its objective, not with its process."""
    if _POINT in trial.system_attrs:
        study._storage.set_trial_system_attr(trial._trial_id, _TOLD, True)


def was_killed(trial: FrozenTrial) -> bool:
    """Whether a trial that this sampler proposed was retired without a word of its objective."""
    marks = trial.system_attrs
    return trial.state == TrialState.FAIL and _POINT in marks and _TOLD not in marks


def params_of(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> Mapping[str, Any]:
    """The parameters of a trial; of one that runs or was killed also those it was going to have."""
    if trial.params.keys() >= space.keys() or not trial.system_attrs:
        return trial.params
    if trial.state != TrialState.RUNNING and not was_killed(trial):
        return trial.params
    claimed = {
        name: space[name].to_external_repr(value)
        for name, value in trial.system_attrs.get(_POINT, {}).items()
        if name in space
    }
    return {**claimed, **trial.system_attrs.get(_FIXED, {}), **trial.params}


def undecided(
    trials: Sequence[FrozenTrial],
    number: int,
    space: Mapping[str, BaseDistribution],
    so_far: Mapping[str, Any] | None = None,
) -> int:
    """How many running trials before `number` have no point yet, those long silent not counted.

    Only those that may come to the same point: which agree with the parameters `so_far`.
    """
    waiting = (params_of(t, space) for t in _running(trials) if t.number < number)
    known = (so_far or {}).items()
    return sum(
        not params.keys() >= space.keys() and all(params.get(k, v) == v for k, v in known)
        for params in waiting
    )


def unfinished(trials: Sequence[FrozenTrial]) -> frozenset[int]:
    """The numbers of those that have not ended, and the next one."""
    return frozenset((len(trials), *(t.number for t in trials if not t.state.is_finished())))


def rivals(
    trials: Sequence[FrozenTrial],
    number: int,
    space: Mapping[str, BaseDistribution],
    open_: Collection[int],
) -> list[int]:
    """The numbers of the trials that have the point of trial `number`, and that it did not know.

    They are running, or have ended since it chose, when those of `open_` had not (`unfinished`).
    """
    running, later = {t.number for t in _running(trials)}, max(open_)
    news = [t for t in trials if t.number in open_ or t.number > later]
    found = {
        t.number: params_of(t, space) for t in news if t.number in running or t.state.is_finished()
    }
    points = {n: {k: p[k] for k in space} for n, p in found.items() if p.keys() >= space.keys()}
    own = points.pop(number, None)
    return [other for other, point in points.items() if point == own]


def stale(trials: Sequence[FrozenTrial]) -> int:
    """The number up to which trials that still run are probably dead, by `STALE_AFTER`.

    The workers are those beside the one that asks: as many as ever ran at once lately, for some
    are slow, or starved of a lock, while others begin a hundred trials.
    """
    latest = [t for t in trials[-_LATEST:] if t.datetime_start is not None]
    begun = [(t.datetime_start, 1) for t in latest]
    ended = [(t.datetime_complete, -1) for t in latest if t.datetime_complete is not None]
    at_once = accumulate(change for _, change in sorted([*begun, *ended]))
    others = max(at_once, default=0) - 1
    return (trials[-1].number if trials else -1) - STALE_AFTER * max(1, others)


def _running(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that are running and probably alive."""
    first = stale(trials)
    return [t for t in trials if t.state == TrialState.RUNNING and t.number > first]
