"""Compare samplers under a constraint on recorded tasks: what safety costs, and what it brings.

The constraint is robust accuracy: c = threshold - FGSM accuracy, the threshold being a percentile
of the task's own FGSM accuracies over the grid (means over training seeds). Every method starts at
the framework's default; a start that is unsafe is exempt from the mask and counted like any other
trial. A trial looks up one recorded training seed, which gives the noise of real training (and of
`Task.n_val` samples); it is unsafe if that model's own c > 0. What a method recommends is judged on
the mean over seeds: its regret is 0 at the best feasible cell and 1 at a uniform guess, or 1 if
nothing was recommended; it is a false "safe" if c > 0 on the mean. Examples:

    python -m benchmarks.safety                                # validation tasks, all methods
    python -m benchmarks.safety --methods ours "ei x p" --seeds 5 --percentiles 40
    python -m benchmarks.safety --split train --tasks 20       # while designing

A task is left out at a percentile where its table makes the constraint meaningless: the FGSM
accuracy varies less over the grid than between seeds, or every feasible cell is closer to a guess
than to the best cell (normalised regret above 1/2).
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from rich.console import Console
from rich.table import Table
from scipy.interpolate import RegularGridInterpolator

from benchmarks.common.report import add_write, chosen_tasks, mean_and_error, publish
from benchmarks.common.report import parser as comparison
from benchmarks.recorded import tasks
from rlhf_tune import CannotCertify, DQNSampler
from rlhf_tune.progress import track
from rlhf_tune.study.space import DEFAULTS

METHODS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, deterministic_objective=False),
    "random moves": lambda seed: DQNSampler(policy="random", confidence=0, price=None, seed=seed),
    "ei, no mask": lambda seed: DQNSampler(confidence=0, price=None, seed=seed),
    "mask .5": lambda seed: DQNSampler(confidence=0.5, price=None, seed=seed),
    "mask .8": lambda seed: DQNSampler(confidence=0.8, price=None, seed=seed),
    "mask .95": lambda seed: DQNSampler(confidence=0.95, price=None, seed=seed),
    "ei x p": lambda seed: DQNSampler(confidence=0, price=0, seed=seed),
    "price": lambda seed: DQNSampler(confidence=0, seed=seed),
    "planning": lambda seed: DQNSampler(policy="plan", seed=seed),
    "ours": lambda seed: DQNSampler(seed=seed),
}
BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


class Landscape:
    """A recorded task with a threshold, as a function of any learning rate and batch size.

    Attributes:
        name: The task's name and the percentile.
        family: The task's family of data sets.
        meaningful: Whether the constraint can be judged; see the module's docstring.
        ranges: (low, high) of learning rate and batch size.
    """

    def __init__(self, task: tasks.Task, percentile: float) -> None:
        """Interpolate final loss and cost of every seed, linearly in log coordinates."""
        self.name, self.family = f"{task.name} {percentile:g}", task.family
        every = task.fgsm_accuracy.astype(np.float64)
        robust = every[..., -1]
        threshold = np.percentile(robust.mean(axis=0), percentile)
        cost, early = threshold - robust, threshold - every[..., 0]
        normal = tasks.normalised(task.val_loss[..., -1], task.chance)
        feasible = cost.mean(axis=0) <= 0
        self._best = float(normal.mean(axis=0)[feasible].min())
        varies = robust.mean(axis=0).std() > robust.std(axis=0, ddof=1).mean()
        self.meaningful = bool(varies and self._best <= 0.5)
        grid = (np.log(task.learning_rates), np.log(task.batch_sizes))
        self.ranges = [(float(np.exp(axis[0])), float(np.exp(axis[-1]))) for axis in grid]
        self._table = RegularGridInterpolator(
            grid, np.moveaxis([normal, cost, early], (0, 1), (-1, -2))
        )

    def measure(self, learning_rate: float, batch_size: int) -> NDArray[np.float64]:
        """[S, 3] loss, cost and cost after 3 of 12 epochs of a training run with each seed."""
        ends = np.log(self.ranges)
        point = np.clip(np.log([learning_rate, batch_size]), ends[:, 0], ends[:, 1])
        return np.asarray(self._table(point)[0])

    def regret(self, loss: float) -> float:
        """The loss's regret: 0 at the best feasible cell, 1 at a uniform guess."""
        return max(0.0, (loss - self._best) / (1 - self._best))


@dataclass(frozen=True)
class Outcome:
    """What one study came to.

    Attributes:
        unsafe: Unsafe trials, the start included.
        unsafe_start: Whether the start was one of them.
        regret: Feasible regret of the recommendation.
        false_safe: Whether a recommendation was made and is unsafe on the mean over seeds.
        trials: Trials until the study ended.
        p_safe: [N] what was predicted for the trials after the start; empty for other samplers.
        safe: [N] whether they were.
        early: [trials] the cost after 3 of 12 epochs.
        costs: [trials] the cost at the end.
    """

    unsafe: int
    unsafe_start: bool
    regret: float
    false_safe: bool
    trials: int
    p_safe: NDArray[np.float64]
    safe: NDArray[np.bool_]
    early: NDArray[np.float64]
    costs: NDArray[np.float64]


def run(landscape: Landscape, method: str, seed: int, trials: int) -> Outcome:
    """One study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # of experimental samplers, and that a study ends early
    seed = zlib.crc32(f"{landscape.name} {seed}".encode())  # tasks must not share their luck
    noise = np.random.default_rng(seed)
    (low, high), (small, large) = landscape.ranges

    def objective(trial: optuna.Trial) -> float:
        learning_rate = trial.suggest_float("learning_rate", low, high, log=True)
        batch_size = trial.suggest_int("batch_size", round(small), round(large), log=True)
        seeds = landscape.measure(learning_rate, batch_size)
        loss, cost, early = seeds[noise.integers(len(seeds))]
        trial.set_constraint("robustness", float(cost))
        trial.set_user_attr("early", float(early))
        return float(loss)

    study = optuna.create_study(sampler=METHODS[method](seed))
    study.enqueue_trial(dict(DEFAULTS))
    study.optimize(objective, n_trials=trials)
    return _outcome(landscape, study)


def _outcome(landscape: Landscape, study: optuna.Study) -> Outcome:
    unsafe = [trial.constraints["robustness"] > 0 for trial in study.trials]
    chosen = _recommendation(study)
    loss, cost, _ = landscape.measure(**chosen).mean(axis=0) if chosen else (np.inf, -np.inf, 0)
    p_safe, safe = np.empty(0), np.empty(0, dtype=np.bool_)
    if isinstance(study.sampler, DQNSampler):
        risk = study.sampler.risk(study)
        p_safe, safe = risk.p_safe, risk.safe
    return Outcome(
        unsafe=sum(unsafe),
        unsafe_start=unsafe[0],
        regret=landscape.regret(loss) if chosen else 1.0,
        false_safe=bool(cost > 0),
        trials=len(unsafe),
        p_safe=p_safe,
        safe=safe,
        early=np.array([trial.user_attrs["early"] for trial in study.trials]),
        costs=np.array([trial.constraints["robustness"] for trial in study.trials]),
    )


def _recommendation(study: optuna.Study) -> dict[str, float]:
    """Of ours its own, of another sampler the best trial that satisfied the constraint."""
    if isinstance(study.sampler, DQNSampler):
        try:
            return study.sampler.recommend(study)
        except CannotCertify:
            return {}
    feasible = [t for t in study.trials if t.constraints["robustness"] <= 0]
    return min(feasible, key=lambda t: t.values[0]).params if feasible else {}


def compare(
    landscapes: Sequence[Landscape],
    methods: Sequence[str],
    *,
    seeds: int,
    trials: int,
    processes: int = 2,
) -> dict[str, list[list[Outcome]]]:
    """The outcomes of each method, [landscape][seed]; in parallel, with a progress bar."""
    jobs = list(product(methods, landscapes, range(seeds)))
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(run, each, m, s, trials) for m, each, s in jobs]
        done = iter([future.result() for future in track(futures, "studies")])
    return {m: [[next(done) for _ in range(seeds)] for _ in landscapes] for m in methods}


def summary(results: dict[str, list[list[Outcome]]], title: str) -> Table:
    """Mean and standard error over tasks (each the mean over seeds)."""
    columns = ("unsafe", "of these starts", "regret", "false safe", "trials")
    table = Table("method", *columns, title=f"{title}: mean ± s.e. of tasks")
    for method, rows in results.items():
        table.add_row(
            method,
            *(
                mean_and_error(np.array([np.mean([getattr(o, k) for o in row]) for row in rows]))
                for k in ("unsafe", "unsafe_start", "regret", "false_safe", "trials")
            ),
        )
    return table


def families(results: dict[str, list[list[Outcome]]], names: Sequence[str], title: str) -> Table:
    """Unsafe trials and regret of each family of data sets."""
    table = Table("method", *sorted(set(names)), title=f"{title}: unsafe / regret by family")
    for method, rows in results.items():
        cells = []
        for family in sorted(set(names)):
            outcomes = [
                o for row, name in zip(rows, names, strict=True) if name == family for o in row
            ]
            unsafe, regret = (
                np.mean([getattr(o, k) for o in outcomes]) for k in ("unsafe", "regret")
            )
            cells.append(f"{unsafe:.2f} / {regret:.3f}")
        table.add_row(method, *cells)
    return table


def coverage(results: dict[str, list[list[Outcome]]], title: str) -> Table:
    """Nominal beside actual P(safe) of the trials after the start, by bins of the nominal."""
    edges = list(pairwise(BINS))
    heads = [f"{low:g}-{high:g}" for low, high in edges]
    table = Table("method", *heads, title=f"{title}: P(safe) nominal -> actual (trials)")
    for method, rows in results.items():
        p = np.concatenate([o.p_safe for row in rows for o in row])
        safe = np.concatenate([o.safe for row in rows for o in row])
        if len(p):
            bins = np.clip(np.digitize(p, BINS) - 1, 0, len(edges) - 1)
            table.add_row(method, *(_bin(p[bins == i], safe[bins == i]) for i in range(len(edges))))
    return table


def probes(results: dict[str, list[list[Outcome]]], title: str) -> Table:
    """What `rlhf_tune.safety.hopeless` would have stopped after 3 of 12 epochs, by `drift`."""
    drifts = (0.1, 0.15, 0.25, 0.35)
    heads = (f"drift {drift:g}" for drift in drifts)
    table = Table("method", *heads, title=f"{title}: stopped early, of unsafe / of safe trials")
    for method, rows in results.items():
        early, cost = (
            np.concatenate([getattr(o, key) for row in rows for o in row])
            for key in ("early", "costs")
        )
        stopped = [(early > drift) for drift in drifts]
        cells = (f"{_share(each[cost > 0])} / {_share(each[cost <= 0])}" for each in stopped)
        table.add_row(method, *cells)
    return table


def _share(those: NDArray[np.bool_]) -> str:
    return f"{those.mean():.4f}" if len(those) else "-"


def _bin(p_safe: NDArray[np.float64], safe: NDArray[np.bool_]) -> str:
    return f"{p_safe.mean():.2f} -> {safe.mean():.2f} ({len(safe)})" if len(safe) else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison, one percentile after the other."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    console = Console()
    chosen = chosen_tasks(args)
    tables = []
    for percentile in args.percentiles:
        every = [Landscape(task, percentile) for task in chosen]
        kept = [landscape for landscape in every if landscape.meaningful]
        title = f"{len(kept)} of {len(every)} {args.split} tasks, percentile {percentile:g}"
        results = compare(
            kept, args.methods, seeds=args.seeds, trials=args.trials, processes=args.processes
        )
        tables += [
            summary(results, title),
            families(results, [landscape.family for landscape in kept], title),
            coverage(results, title),
            probes(results, title),
        ]
        for table in tables[-4:]:
            console.print(table)
    if args.write:
        head = f"`python -m benchmarks.safety {shlex.join(words)}`"
        publish(f"safety-{args.split}", head, tables, args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = comparison("safety", __doc__, METHODS)
    parser.add_argument("--percentiles", nargs="+", type=float, default=[40, 80])
    parser.add_argument("--seeds", type=int, default=5, help="studies a task (5)")
    parser.add_argument("--trials", type=int, default=20, help="trials a study (20)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
