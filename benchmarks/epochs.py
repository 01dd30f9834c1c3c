"""Compare samplers with and without pruners at equal total epochs, on recorded tasks.

A trial trains for 12 epochs unless its pruner stops it; all its epochs count. Of the trials that
were trained to the end within the budget, the one that measured best is judged on the mean over
training seeds; before there is one, the regret is that of a uniform guess, 1. Every method starts
at the framework's default. Examples:

    python -m benchmarks.epochs                     # validation tasks, all methods
    python -m benchmarks.epochs --write             # the same, into its page
    python -m benchmarks.epochs --split train --tasks 10 --seeds 2
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from benchmarks.common import report
from benchmarks.studies import methods
from benchmarks.studies.studies import side_by_side, stream
from benchmarks.studies.surfaces import Surface

Floats = NDArray[np.float64]

EPOCHS = 12
BUDGETS = (24, 60, 120, 240)
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "": NopPruner,
    " + hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=EPOCHS),
    " + median": MedianPruner,
    " + halving": SuccessiveHalvingPruner,
}
METHODS = {
    name + suffix: (name, pruner)
    for name in ("tpe", "default")
    for suffix, pruner in PRUNERS.items()
}
TARGET = "tpe"
"""Whose regret after all epochs is to be reached earlier."""


def regrets(problem: Surface, method: str, seed: int, budget: int) -> Floats:
    """[budget] the regret after each epoch."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = stream(problem, seed)
    noise = np.random.default_rng(seed)
    sampler, pruner = METHODS[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            study_name=str(seed),  # by which Hyperband chooses a trial's bracket
            sampler=methods.METHODS[sampler](seed),
            pruner=pruner(),
        )
    study.enqueue_trial(problem.start)
    result, spent, best = np.ones(budget), 0, np.inf
    while spent < budget:
        trial = study.ask(problem.space)
        curves = problem.curves(trial.params)
        curve = curves[noise.integers(len(curves))]
        epochs, pruned = _train(trial, curve)
        spent += epochs
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        study.tell(trial, curve[-1])
        if curve[-1] < best:
            best = curve[-1]
            result[spent - 1 :] = curves[:, -1].mean()
    return result


def _train(trial: optuna.Trial, curve: Floats) -> tuple[int, bool]:
    """Report a curve [E] epoch by epoch; how many were trained, and whether it was pruned."""
    for epoch, value in enumerate(curve, start=1):
        trial.report(float(value), step=epoch)
        if trial.should_prune():
            return epoch, True
    return len(curve), False


def summary(results: Mapping[str, Floats]) -> Table:
    """Regret at each budget, and the epochs after which the mean is what TPE ends at.

    Args:
        results: By method [P, S, B] the regret of each problem and study after each epoch.
    """
    budgets = [n for n in BUDGETS if n <= next(iter(results.values())).shape[-1]]
    title = "regret: mean ± s.e. of tasks"
    heads = (f"{n} epochs" for n in budgets)
    table = Table("method", *heads, f"epochs to {TARGET}'s last", title=title)
    for method, values in results.items():
        cells = (report.mean_and_error(values[..., n - 1].mean(axis=1)) for n in budgets)
        table.add_row(method, *cells, epochs_to(values, results.get(TARGET)))
    return table


def epochs_to(values: Floats, target: Floats | None) -> str:
    """The first epoch after which the mean regret is at most that of `target` at its end."""
    if target is None:
        return "-"
    reached = np.flatnonzero(values.mean(axis=(0, 1)) <= target.mean(axis=(0, 1))[-1])
    return str(reached[0] + 1) if len(reached) else f"> {values.shape[-1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    problems = [Surface(task) for task in report.chosen_tasks(args)]
    jobs = [
        (problem, method, seed, args.budget)
        for method in args.methods
        for problem in problems
        for seed in range(args.seeds)
    ]
    rows = np.array(side_by_side(regrets, jobs, args.processes))
    shape = (len(args.methods), len(problems), args.seeds, args.budget)
    table = summary(dict(zip(args.methods, rows.reshape(shape), strict=True)))
    head = (
        f"`python -m benchmarks.epochs {shlex.join(words)}`: {len(problems)} {args.split} tasks x "
        f"{args.seeds} studies."
    )
    console = Console()
    console.print(head)
    console.print(table)
    if args.write:
        report.publish(f"epochs-{args.split}", head, [table], args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = report.parser("epochs", __doc__, METHODS)
    parser.add_argument("--seeds", type=int, default=10, help="studies a task (10)")
    parser.add_argument("--budget", type=int, default=BUDGETS[-1], help="epochs a study (240)")
    report.add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
