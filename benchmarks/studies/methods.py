"""The methods that are compared, by name; each is made anew for a study, from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

from benchmarks.recorded import tasks
from rlhf_tune import DQNSampler
from rlhf_tune.study.space import DEFAULTS

Point = Mapping[str, Any]


class Portfolio(BaseSampler):
    """Tries a fixed list of points, one a trial; what they do not name is drawn at random."""

    def __init__(self, points: Sequence[Point], seed: int) -> None:
        self._points = points
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing: parameters are looked up one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value of the point that is this trial's turn."""
        point = self._points[trial.number] if trial.number < len(self._points) else {}
        if param_name in point:
            return point[param_name]
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def greedy(regrets: NDArray[np.float64], first: int) -> list[int]:
    """All columns of regrets [tasks, points], each the one that helps most after those before it.

    What helps is a low mean over tasks of the best regret so far.
    """
    order = [first]
    best = regrets[:, first]
    while len(order) < regrets.shape[1]:
        after = np.minimum(best[:, None], regrets).mean(axis=0)
        after[order] = np.inf
        order.append(int(after.argmin()))
        best = np.minimum(best, regrets[:, order[-1]])
    return order


@lru_cache(maxsize=1)
def portfolio() -> tuple[Point, ...]:
    """The cells of the train tasks' grid, the default first and the most useful after it."""
    train = tasks.load("train")
    rates, sizes = train[0].learning_rates, train[0].batch_sizes
    points = tuple(
        {"learning_rate": float(rate), "batch_size": int(size)} for rate in rates for size in sizes
    )
    regrets = [tasks.normalised_regret(task.val_loss[..., -1], task.chance) for task in train]
    near = np.abs(np.log(rates / DEFAULTS["learning_rate"])).argmin()
    first = int(near) * len(sizes) + int(np.flatnonzero(sizes == DEFAULTS["batch_size"])[0])
    order = greedy(np.reshape(regrets, (len(train), -1)), first)
    return tuple(points[i] for i in order)


METHODS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=False),
    "gp 2": lambda seed: GPSampler(seed=seed, deterministic_objective=False, n_startup_trials=2),
    "cma-es": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "random moves": lambda seed: DQNSampler(policy="random", seed=seed),
    "portfolio": lambda seed: Portfolio(portfolio(), seed),
    "no prior": lambda seed: DQNSampler(policy="no_prior", seed=seed),
    "default": lambda seed: DQNSampler(seed=seed),
    "dqn": lambda seed: DQNSampler(policy="dqn", seed=seed),
}
SLOW = frozenset({"gp", "gp 2"})
"""Those that take a second or more a study."""
OPTUNA = ("random", "tpe", "gp", "gp 2", "cma-es", "qmc")
"""Optuna's own."""
