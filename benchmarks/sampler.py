"""Compare samplers on recorded tasks: regret of the best trial so far after n trials.

Every method starts at the same point, the framework's default, and sees the same noisy
measurements: a trial looks up one of the recorded training seeds. Regret is judged on the mean
over seeds, so a lucky measurement earns nothing. Examples:

    python -m benchmarks.sampler                          # validation tasks, all methods
    python -m benchmarks.sampler --methods random dqn --seeds 5 --trials 20
    python -m benchmarks.sampler --split train --tasks 10 # while designing
"""

from __future__ import annotations

import argparse
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.interpolate import RegularGridInterpolator

from benchmarks import tasks
from benchmarks.report import chosen_tasks, mean_and_error
from benchmarks.report import parser as comparison
from rlhf_tune import DQNSampler
from rlhf_tune.space import DEFAULTS

METHODS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=False),
    "random moves": lambda seed: DQNSampler(policy="random", seed=seed),
    "no prior": lambda seed: DQNSampler(policy="no_prior", seed=seed),
    "dqn": lambda seed: DQNSampler(policy="dqn", seed=seed),
    "default": lambda seed: DQNSampler(seed=seed),
}
REPORTED = (5, 10, 20, 40)


class Surface:
    """A recorded task as a function of any learning rate and batch size of its ranges."""

    def __init__(self, task: tasks.Task) -> None:
        """Interpolate the normalised final loss of every seed, linearly in log coordinates."""
        normal = tasks.normalised(task.val_loss[..., -1], task.chance)
        self.ranges = [
            (float(axis[0]), float(axis[-1])) for axis in (task.learning_rates, task.batch_sizes)
        ]
        grid = (np.log(task.learning_rates), np.log(task.batch_sizes))
        self._seeds = [RegularGridInterpolator(grid, table) for table in normal]

    def measure(self, learning_rate: float, batch_size: int, seed: int) -> float:
        """What one training run gives: 0 is the best cell, 1 a uniform guess."""
        point = self._point(learning_rate, batch_size)
        return float(self._seeds[seed % len(self._seeds)](point)[0])

    def regret(self, learning_rate: float, batch_size: int) -> float:
        """The mean over training seeds."""
        point = self._point(learning_rate, batch_size)
        return float(np.mean([seed(point) for seed in self._seeds]))

    def _point(self, learning_rate: float, batch_size: int) -> NDArray[np.float64]:
        values = [
            min(max(value, low), high)
            for value, (low, high) in zip((learning_rate, batch_size), self.ranges, strict=True)
        ]
        return np.log(values)


def regrets(task: tasks.Task, method: str, seed: int, trials: int) -> NDArray[np.float64]:
    """[trials] the regret of the best trial so far, as measured, after each trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    surface = Surface(task)
    (low, high), (small, large) = surface.ranges
    seed = zlib.crc32(f"{task.name} {seed}".encode())  # tasks must not share their luck
    noise = np.random.default_rng(seed)

    def objective(trial: optuna.Trial) -> float:
        learning_rate = trial.suggest_float("learning_rate", low, high, log=True)
        batch_size = trial.suggest_int("batch_size", int(small), int(large), log=True)
        trial.set_user_attr("regret", surface.regret(learning_rate, batch_size))
        return surface.measure(learning_rate, batch_size, int(noise.integers(1 << 16)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=METHODS[method](seed))
    study.enqueue_trial(dict(DEFAULTS))
    study.optimize(objective, n_trials=trials)
    measured = np.array([t.value for t in study.trials])
    true = np.array([t.user_attrs["regret"] for t in study.trials])
    best = [int(measured[: n + 1].argmin()) for n in range(trials)]
    return np.asarray(true[best])


def compare(
    chosen: Sequence[tasks.Task],
    methods: Sequence[str],
    *,
    seeds: int,
    trials: int,
    processes: int = 2,
) -> dict[str, NDArray[np.float64]]:
    """Regrets [tasks, seeds, trials] of each method; runs in parallel, with a progress bar."""
    jobs = list(product(methods, chosen, range(seeds)))
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(regrets, t, m, s, trials) for m, t, s in jobs]
        rows = [future.result() for future in track(futures, description="studies")]
    shape = (len(methods), len(chosen), seeds, trials)
    return dict(zip(methods, np.array(rows).reshape(shape), strict=True))


def summary(results: dict[str, NDArray[np.float64]], trials: int) -> Table:
    """Mean and standard error over tasks (each the mean over seeds)."""
    reported = [n for n in REPORTED if n <= trials]
    table = Table("method", *(f"after {n}" for n in reported), title="regret: mean ± s.e. of tasks")
    for method, values in results.items():
        table.add_row(method, *(mean_and_error(values[..., n - 1].mean(axis=1)) for n in reported))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    args = _parser().parse_args(argv)
    chosen = chosen_tasks(args)
    results = compare(
        chosen, args.methods, seeds=args.seeds, trials=args.trials, processes=args.processes
    )
    console = Console()
    console.print(f"{len(chosen)} {args.split} tasks x {args.seeds} seeds")
    console.print(summary(results, args.trials))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = comparison("sampler", __doc__, METHODS)
    parser.add_argument("--seeds", type=int, default=20, help="studies a task (20)")
    parser.add_argument("--trials", type=int, default=40, help="trials a study (40)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
