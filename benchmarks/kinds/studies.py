"""Studies of live problems, with and without constraints."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from joblib import Memory
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from benchmarks.kinds.problems import Live
from benchmarks.studies.methods import METHODS, OPTUNA
from benchmarks.studies.studies import Runs, play_or_recall, side_by_side, stream

Floats = NDArray[np.float64]

NOTHING = 1.0
"""The regret while nothing is feasible, and the largest: a feasible trial never makes it worse."""


class Study(NamedTuple):
    """One study of N trials; later ones count like the last if it ended by itself.

    Attributes:
        regret: [N] of the best trial so far as measured, of the feasible if there are constraints,
            judged on the mean over training seeds; at most `NOTHING` if there are constraints.
        retrained: [C] of the recommendation, see `Runs`; [0] if there are constraints.
        unsafe: [N] the number of trials so far that violated a constraint, as measured.
        feasible: [N] whether any trial so far did not.
        played: [N] the number of trials so far, fewer than n where the study ended by itself.
    """

    regret: Floats
    retrained: Floats
    unsafe: Floats
    feasible: NDArray[np.bool_]
    played: NDArray[np.int64]


@dataclass(frozen=True)
class KindRuns(Runs):
    """The studies of one kind of problem with one method; P problems, S studies of each.

    Attributes:
        unsafe: [P, S, N], see `Study`.
        feasible: [P, S, N].
        played: [P, S, N].
    """

    unsafe: Floats
    feasible: NDArray[np.bool_]
    played: NDArray[np.int64]


def play(keep: Path | None, problem: Live, method: str, seed: int, trials: int) -> Study:
    """One study; those of Optuna's own samplers are looked up in the folder `keep`, if any."""
    if not problem.spec.constraint:
        rows = play_or_recall(keep, problem, method, seed, trials, problem.unit)
        every = np.arange(1, trials + 1)
        return Study(*rows, np.zeros(trials), np.ones(trials, dtype=np.bool_), every)
    if keep is None or method not in OPTUNA:
        return play_safely(problem, method, seed, trials)
    memory = Memory(keep / f"optuna-{optuna.__version__}", verbose=0)
    result: Study = memory.cache(play_safely)(problem, method, seed, trials)
    return result


def play_safely(problem: Live, method: str, seed: int, trials: int) -> Study:
    """One study under constraints: each trial is told the measure and costs of one seed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = stream(problem, seed)
    noise = np.random.default_rng(seed)
    measured: list[float] = []
    true: list[float] = []
    safe: list[bool] = []

    def objective(trial: optuna.Trial) -> float:
        params = {name: _suggested(trial, name, d) for name, d in problem.space.items()}
        values = problem.values(params)
        one = int(noise.integers(len(values)))
        costs = problem.costs(params, one)
        for name, cost in costs.items():
            trial.set_constraint(name, cost)
        measured.append(float(values[one]))
        true.append(float(values.mean()))
        safe.append(max(costs.values()) <= 0)
        return problem.unit(measured[-1])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental samplers, and that a study ends early
        study = optuna.create_study(sampler=METHODS[method](seed), direction=problem.unit.direction)
        study.enqueue_trial(problem.start)
        study.optimize(objective, n_trials=trials)
    return judged(np.array(measured), np.array(true), np.array(safe), trials)


def _suggested(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise AssertionError(distribution)


def judged(measured: Floats, true: Floats, safe: NDArray[np.bool_], trials: int) -> Study:
    """What a study came to, of [n] measured and mean values and whether no constraint was violated.

    Where n < `trials`, the last counts on.
    """
    rows = np.minimum(np.arange(trials), len(measured) - 1)
    feasible = np.logical_or.accumulate(safe)
    best = np.array([np.where(safe, measured, np.inf)[: n + 1].argmin() for n in range(len(safe))])
    regret = np.where(feasible, np.minimum(true[best], NOTHING), NOTHING)
    unsafe = np.cumsum(~safe).astype(np.float64)
    return Study(regret[rows], np.empty(0), unsafe[rows], feasible[rows], rows + 1)


def compare(
    problems: Sequence[Live],
    methods: Mapping[str, int],
    *,
    trials: int,
    processes: int = 2,
    keep: Path | None = None,
) -> dict[str, KindRuns]:
    """Play so many studies of each problem with each method, with a progress bar."""
    jobs = [
        (keep, problem, method, seed, trials)
        for method, studies in methods.items()
        for problem in problems
        for seed in range(studies)
    ]
    played = iter(side_by_side(play, jobs, processes))
    return {
        method: _stacked([[next(played) for _ in range(studies)] for _ in problems])
        for method, studies in methods.items()
    }


def _stacked(rows: Sequence[Sequence[Study]]) -> KindRuns:
    """Of studies [P][S]."""
    return KindRuns(*(np.array([[study[i] for study in row] for row in rows]) for i in range(5)))
