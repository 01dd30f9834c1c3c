"""Studies of problems, many side by side, and what became of them."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import optuna
import torch
from joblib import Memory
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.studies.methods import METHODS, OPTUNA
from benchmarks.studies.surfaces import Problem
from rlhf_tune import DQNSampler
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.progress import track

Floats = NDArray[np.float64]
T = TypeVar("T")

CHECKED = (5, 10, 20, 40)


@dataclass(frozen=True)
class Unit:
    """What a sampler is told of a value v: scale x v + offset; maximised if the scale is negative.

    Attributes:
        scale: Not 0.
        offset: Any number.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a unit in which all values are equal."""
        if not self.scale:
            raise InvalidInputError(f"`scale` must not be 0, but got {self.scale}; use 1 or -1?")

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The direction of a study in this unit."""
        return "minimize" if self.scale > 0 else "maximize"

    def __call__(self, value: float) -> float:
        """A value in this unit."""
        return self.scale * value + self.offset


@dataclass(frozen=True)
class Runs:
    """What became of the studies of one method; P problems, S studies of each, N trials.

    Attributes:
        regret: [P, S, N] of the best trial so far as measured, judged on the mean over training
            seeds.
        retrained: [P, S, C] the value of the setting recommended after each of `checkpoints`,
            trained again with a seed that the study did not see there.
    """

    regret: Floats
    retrained: Floats


def checkpoints(trials: int) -> list[int]:
    """The numbers of trials at which methods are compared."""
    return [*(n for n in CHECKED if n < trials), trials]


def play(
    problem: Problem, method: str, seed: int, trials: int, unit: Unit
) -> tuple[Floats, Floats]:
    """One study: the rows of `Runs`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = stream(problem, seed)
    noise = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=METHODS[method](seed), direction=unit.direction)
    study.enqueue_trial(problem.start)
    measured, true, retrained = np.empty(trials), np.empty(trials), []
    seen: list[int] = []
    for n in range(trials):
        trial = study.ask(problem.space)
        values = problem.values(trial.params)
        seen.append(int(noise.integers(len(values))))
        measured[n], true[n] = values[seen[-1]], values.mean()
        study.tell(trial, unit(measured[n]))
        if n + 1 in checkpoints(trials):
            retrained.append(_retrained(problem, study, seen))
    return true[best_so_far(measured)], np.array(retrained)


def play_or_recall(
    keep: Path | None, problem: Problem, method: str, seed: int, trials: int, unit: Unit
) -> tuple[Floats, Floats]:
    """`play`, which for Optuna's own samplers is looked up in a folder where it was kept before.

    Ours are always played: their results would outlive a change of this project.
    """
    if keep is None or method not in OPTUNA:
        return play(problem, method, seed, trials, unit)
    remembered = Memory(keep / f"optuna-{optuna.__version__}", verbose=0).cache(play)
    result: tuple[Floats, Floats] = remembered(problem, method, seed, trials, unit)
    return result


def stream(problem: Problem, seed: int) -> int:
    """The seed of a study: problems must not share their luck, methods should."""
    return zlib.crc32(f"{problem.name} {seed}".encode())


def best_so_far(measured: Floats) -> NDArray[np.int64]:
    """[N] the row of the smallest of the first n measurements [N], the earliest of equal ones."""
    return np.array([measured[: n + 1].argmin() for n in range(len(measured))])


def _retrained(problem: Problem, study: optuna.Study, seen: Sequence[int]) -> float:
    """The mean over the seeds unseen at the recommended setting; over all if all were seen."""
    chosen = recommended(study)
    values = problem.values(chosen)
    used = {s for s, trial in zip(seen, study.trials, strict=True) if trial.params == chosen}
    fresh = [s for s in range(len(values)) if s not in used]
    return float(values[fresh or slice(None)].mean())


def recommended(study: optuna.Study) -> dict[str, Any]:
    """Of ours its own recommendation, of another sampler the best trial."""
    if isinstance(study.sampler, DQNSampler):
        return study.sampler.recommend(study)
    return study.best_params


def compare(
    problems: Sequence[Problem],
    methods: Mapping[str, int],
    *,
    trials: int,
    unit: Unit | None = None,
    processes: int = 2,
    keep: Path | None = None,
) -> dict[str, Runs]:
    """Play so many studies of each problem with each method, with a progress bar.

    Studies of Optuna's samplers are kept in the folder `keep`, if one is given.
    """
    jobs = [
        (keep, problem, method, seed, trials, unit or Unit())
        for method, studies in methods.items()
        for problem in problems
        for seed in range(studies)
    ]
    rows = iter(side_by_side(play_or_recall, jobs, processes))
    results = {}
    for method, studies in methods.items():
        both = [next(rows) for _ in range(len(problems) * studies)]
        regret, retrained = (
            np.array([row[i] for row in both]).reshape(len(problems), studies, -1) for i in (0, 1)
        )
        results[method] = Runs(regret, retrained)
    return results


def side_by_side(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], processes: int
) -> list[T]:
    """The function's results for the arguments of each job, in order, with a progress bar."""
    with ProcessPoolExecutor(processes, initializer=_one_thread_each) as pool:
        futures = [pool.submit(function, *job) for job in jobs]
        return [future.result() for future in track(futures, "studies")]


def _one_thread_each() -> None:
    torch.set_num_threads(1)
    threadpool_limits(1)
