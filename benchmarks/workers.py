"""Studies that several workers share: regret at equal trials, and ten thousand trials in one.

On "lockstep" (recorded tasks): so many trials are asked for, one after the other, before any of
them is told its value; then the next round. TPE stands beside, with its constant liar (which takes
running trials for bad ones, Optuna's default) and without. "repeats" are trials of a round that
have a point of it.
On "long" (a noisy bowl, in memory): milliseconds of the processor a suggestion, megabytes of the
process by the number of past trials, and the seconds in which `transitions` reads all. Examples:

    python -m benchmarks.workers                             # lockstep, validation tasks
    python -m benchmarks.workers --split test --write        # the same on test tasks
    python -m benchmarks.workers --on long --trials 10000
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, chosen_tasks, mean_and_error, parser, publish
from benchmarks.latency import SPACE, study_with
from benchmarks.studies.studies import CHECKED, best_so_far, side_by_side, stream
from benchmarks.studies.surfaces import Problem, Surface
from rlhf_tune import DQNSampler
from rlhf_tune.study.transitions import transitions

Floats = NDArray[np.float64]

METHODS: dict[str, Callable[[int], BaseSampler]] = {
    "default": lambda seed: DQNSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed, constant_liar=True),
    "tpe, no liar": lambda seed: TPESampler(seed=seed, constant_liar=False),
}
PAST = (100, 1000, 3000, 10_000)


def play(problem: Problem, method: str, seed: int, trials: int, workers: int) -> tuple[Floats, int]:
    """One study in lockstep: [N] the regret of the best trial so far, and how many repeats."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = stream(problem, seed)
    noise = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=METHODS[method](seed))
    study.enqueue_trial(problem.start)
    measured, true, repeats = [], [], 0
    while len(measured) < trials:
        size = min(workers, trials - len(measured))
        asked = [study.ask(problem.space) for _ in range(size)]
        repeats += size - len({tuple(sorted(trial.params.items())) for trial in asked})
        for trial in asked:
            values = problem.values(trial.params)
            measured.append(float(values[int(noise.integers(len(values)))]))
            true.append(float(values.mean()))
            study.tell(trial, measured[-1])
    return np.array(true)[best_so_far(np.array(measured))], repeats


def lockstep(args: argparse.Namespace) -> tuple[str, list[Table]]:
    """Regret by method, number of workers and trials."""
    problems = [Surface(task) for task in chosen_tasks(args)]
    settings = [(method, k) for method in args.methods for k in args.workers]
    jobs = [
        (problem, method, seed, args.trials, k)
        for method, k in settings
        for problem in problems
        for seed in range(args.seeds)
    ]
    rows = iter(side_by_side(play, jobs, args.processes))
    points = [n for n in CHECKED if n < args.trials] + [args.trials]
    table = Table(
        *("method", "workers", *(f"after {n}" for n in points), "repeats a study"),
        title="regret of the best trial so far, mean ± s.e. over tasks",
    )
    for method, k in settings:
        found = [next(rows) for _ in range(len(problems) * args.seeds)]
        regret = np.array([curve for curve, _ in found])
        regret = regret.reshape(len(problems), args.seeds, -1).mean(axis=1)
        repeats = np.mean([count for _, count in found])
        cells = (mean_and_error(regret[:, n - 1]) for n in points)
        table.add_row(method, str(k), *cells, f"{repeats:.1f}")
    head = f"{len(problems)} {args.split} tasks, {args.seeds} studies of each."
    return head, [table]


def _megabytes() -> float:
    """What the process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def grown(method: str, past: int) -> tuple[float, float, float]:
    """Milliseconds a suggestion (median), megabytes, and seconds of `transitions`.

    Of the processor, not of the clock: a busy machine must not count.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = study_with(past, METHODS[method](0))
    spent = []
    for _ in range(11):
        began = time.process_time()
        trial = study.ask(SPACE)
        spent.append(1e3 * (time.process_time() - began))
        study.tell(trial, 5.0)
    held = _megabytes()
    began = time.process_time()
    if method == "default":
        transitions(study)
    return float(np.median(spent[1:])), held, time.process_time() - began


def long(args: argparse.Namespace) -> tuple[str, list[Table]]:
    """Latency and memory by the number of past trials, each in a process of its own."""
    past = [n for n in PAST if n < args.trials] + [args.trials]
    heads = ("sampler", "past trials", "CPU ms a suggestion", "MB", "CPU s of `transitions`")
    table = Table(*heads, title="one long study, in memory")
    for method in args.methods:
        for n in past:
            [(spent, held, read)] = side_by_side(grown, [(method, n)], 1)
            shown = f"{read:.2f}" if method == "default" else ""
            table.add_row(method, str(n), f"{spent:.1f}", f"{held:.0f}", shown)
    return "A noisy bowl over learning rate and batch size.", [table]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables of what is asked for."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    args.trials = args.trials or {"lockstep": 40, "long": PAST[-1]}[args.on]
    said, tables = {"lockstep": lockstep, "long": long}[args.on](args)
    head = f"`python -m benchmarks.workers {shlex.join(words)}`: {said}"
    console = Console()
    console.print(head)
    for table in tables:
        console.print(table)
    if args.write:
        name = f"workers-{args.on}" + (f"-{args.split}" if args.on == "lockstep" else "")
        publish(name, head, tables, args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    result = parser("workers", __doc__, METHODS)
    add = result.add_argument
    add("--on", choices=["lockstep", "long"], default="lockstep", help="what is measured")
    add("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="side by side (1 2 4 8)")
    add("--seeds", type=int, default=3, help="studies a task (3)")
    add("--trials", type=int, help="trials a study (40; 10000 with --on long)")
    add_write(result)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
