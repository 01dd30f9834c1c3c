"""What is said of a study while it runs: a line a trial, and what should be thought about.

All of it is a function of the trials, so workers and resumed studies say the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.errors import plain
from rlhf_tune.study.decision import REMEDY
from rlhf_tune.study.history import costs_of
from rlhf_tune.study.space import Axis

_FIRST = 5  # so many trials in vain, then twice as many, and so on


def logger() -> logging.Logger:
    """Ours where logging was configured to show it; else a child of Optuna's, beside its lines.

    So `optuna.logging.set_verbosity` silences both. That handlers are there says little: imports
    of frameworks leave some at the root.
    """
    ours = logging.getLogger("rlhf_tune.study")
    shown = ours.hasHandlers() and ours.isEnabledFor(logging.INFO)
    return ours if shown else optuna.logging.get_logger("optuna.rlhf_tune")


def recognised(axes: Sequence[Axis], params: dict[str, Any]) -> str:
    """What the parameters of the first trial were taken for, on which scale, and where they start.

    Args:
        axes: Of the parameters.
        params: Of the trial.
    """
    seen = (f"{plain(axis.name)} as {axis.role} ({_scale(axis)}, starts at " for axis in axes)
    starts = (f"{plain(str(params[axis.name]))})" for axis in axes)
    told = "; ".join(map("".join, zip(seen, starts, strict=True)))
    return f"parameters seen: {told}. `roles` and `start` of the sampler say otherwise"


def line(trial: FrozenTrial, values: Sequence[float] | None, p_safe: float | None) -> str:
    """A trial's value, its constraints, and how safe it was predicted to be."""
    measured = f"value {values[0]:.4g}" if values else "no value"
    costs = (
        f"{plain(name)} cost {cost:+.3g} ({'kept' if cost <= 0 else 'violated'})"
        for name, cost in costs_of(trial).items()
    )
    safe = "not predicted yet" if p_safe is None else f"predicted {p_safe:.2f}"
    return f"trial {trial.number}: {measured}; {', '.join(costs)}; P(safe) {safe}"


def unsafe(earlier: Sequence[FrozenTrial], trial: FrozenTrial) -> str:
    """How far the bounds are, after five violations and nothing feasible, ten, twenty; else "".

    Args:
        earlier: Trials that ended before.
        trial: The one that ends now.
    """
    if not trial.constraints:
        return ""
    checked = [each for each in (*earlier, trial) if each.constraints]
    if not _is_due(len(checked)) or any(_worst(each) <= 0 for each in checked):
        return ""
    nearest = min(checked, key=_worst)
    misses = ", ".join(
        f"{plain(name)} misses its bound by {cost:.3g}"
        for name, cost in costs_of(nearest).items()
        if not cost <= 0
    )
    return (
        f"{len(checked)} trials were unsafe and none was feasible; in the nearest, trial "
        f"{nearest.number}, {misses}; if this goes on, {REMEDY}"
    )


def idle(earlier: Sequence[FrozenTrial], trial: FrozenTrial) -> str:
    """That a study idles, after five repeated points in a row, ten, twenty; else ""."""
    every = (*earlier, trial)
    last = reversed(range(len(every))[-_FIRST:])
    if not all(any(each.params == every[i].params for each in every[:i]) for i in last):
        return ""  # as mostly; all others are looked at only where there may be something to say
    points: set[str] = set()
    repeats = 0
    for each in every:
        point = point_of(each)
        repeats = repeats + 1 if point in points else 0
        points.add(point)
    if not trial.params or not _is_due(repeats):
        return ""
    return (
        f"the last {repeats} trials repeated points ({len(points)} distinct of "
        f"{len(earlier) + 1} trials): only noise is measured; to find more, widen the ranges or "
        f"name more parameters, else end the study: study.stop()"
    )


def point_of(trial: FrozenTrial) -> str:
    """A trial's parameters, equal where they are."""
    return repr(sorted(trial.params.items()))


def ended(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that ended with a point."""
    return [t for t in trials if t.state.is_finished() and (t.params or t.state != TrialState.FAIL)]


def _worst(trial: FrozenTrial) -> float:
    return max(costs_of(trial).values())


def _is_due(count: int) -> bool:
    """At 5, 10, 20, 40, ..."""
    return count >= _FIRST and count % _FIRST == 0 and (count // _FIRST).bit_count() == 1


def _scale(axis: Axis) -> str:
    if not axis.ordered:
        return "choices without order"
    return "log scale" if axis.log else "linear scale"
