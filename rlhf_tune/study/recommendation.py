"""What a study recommends, and what it was: so many trials, points, and violations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from rlhf_tune.study.expected_improvement import outlook
from rlhf_tune.study.history import History
from rlhf_tune.study.notices import point_of
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.process import points_of
from rlhf_tune.study.risk import SafetyChecker
from rlhf_tune.tabled import Tabled
from rlhf_tune.tables import Table


@final
@dataclass(frozen=True)
class Summary:
    """What the trials of a study were.

    Attributes:
        trials: That ended.
        points: Distinct ones among them.
        complete: Of them, with a result.
        failed: That ended without one, by an exception or NaN.
        feasible: Complete, checked for every constraint of the study, and within all bounds.
        unsafe: With a constraint measured and violated.
        constraints: Their names.
    """

    trials: int
    points: int
    complete: int
    failed: int
    feasible: int
    unsafe: int
    constraints: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.trials} trials at {self.points} distinct points"]
        if self.constraints:
            parts.append(f"{self.feasible} feasible, {self.unsafe} unsafe")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return "; ".join(parts)


def summary_of(trials: Sequence[FrozenTrial], history: History) -> Summary:
    """Count the trials of a study; `history` is theirs."""
    ended = [t for t in trials if t.state.is_finished()]
    return Summary(
        trials=len(ended),
        points=len(set(map(point_of, ended))),
        complete=sum(t.state == TrialState.COMPLETE for t in ended),
        failed=sum(t.state == TrialState.FAIL for t in ended),
        feasible=int(history.eligible.sum()),
        unsafe=int(history.unsafe.sum()),
        constraints=history.constraints,
    )


@final
@dataclass(frozen=True)
class Recommendation(Tabled):
    """The trial to use.

    Attributes:
        number: Of the trial, from 0 as Optuna counts.
        params: Its parameters.
        value: What it measured; of a preferential study its utility.
        mean: What the posterior expects of it if repeated, by which it was chosen.
        costs: Of its constraints; at most 0 is satisfied.
        luckiest: The number of the eligible trial that measured best.
        summary: Of the study.
    """

    number: int
    params: dict[str, Any]
    value: float
    mean: float
    costs: Mapping[str, float]
    luckiest: int
    summary: Summary

    def table(self) -> Table:
        """A row for each parameter, and below what speaks for the trial."""
        why = f"measured {self.value:.4g}, expected again {self.mean:.4g}"
        if self.luckiest == self.number:
            why += "; no eligible trial measured better"
        else:
            why += f"; trial {self.luckiest} measured better, and is expected to be worse"
        costs = [f"{name}: cost {cost:.3g} (<= 0 is kept)" for name, cost in self.costs.items()]
        return Table(
            ("parameter", "value"),
            list(self.params.items()),
            title=f"recommended: trial {self.number}",
            notes=(why, *costs, str(self.summary)),
            shown=len(self.params),
        )


def recommendation(
    history: History,
    trials: Sequence[FrozenTrial],
    *,
    prior: Prior,
    checker: SafetyChecker,
    sign: float,
) -> Recommendation:
    """The eligible trial with the best posterior mean, the likely safe ones before others.

    Args:
        history: Of the trials; at least one is eligible.
        trials: All of the study.
        prior: What is known of performance from other tasks.
        checker: Predicts the constraints.
        sign: -1 where the objective is minimized, else 1.
    """
    score = mean = history.values  # of people's judgements these are posterior means already
    if not history.judged:
        view = outlook(history, prior)
        score, mean = view.of_trials().mean, view.surrogate.predict(points_of(history)).mean
    row = int(np.where(checker.reliable(history), score, -np.inf).argmax())
    luckiest = int(np.where(history.eligible, history.values, -np.inf).argmax())
    if history.values[luckiest] == history.values[row]:
        luckiest = row
    return Recommendation(
        number=int(history.numbers[row]),
        params=dict(history.params[row]),
        value=sign * float(history.values[row]),
        mean=sign * float(mean[row]),
        costs=dict(zip(history.constraints, history.costs[row].tolist(), strict=True)),
        luckiest=int(history.numbers[luckiest]),
        summary=summary_of(trials, history),
    )
