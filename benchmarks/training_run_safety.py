"""Does the model that one training run hands back keep its floor on data never looked at?

A task's floor is a percentile of the accuracies under PGD that unconstrained runs at its 11
constant rates reach, on held-out data, at their best checkpoint. A run is given the floor as
`RobustAccuracy` on its validation data, at 95 % confidence: half of these rows steer, the other
half certifies. It is judged on held-out data, which is neither trained on nor measured on the way:
it violates if its accuracy there, under the full ladder of attacks, is below the floor. Beside it,
with the same weights and batches, a run without constraint. Each run of a task has a seed and an
initial rate (1e-5 to 1) of its own. Runs that end in `CannotCertify` promise nothing, and are
counted apart. For example:

    python -m benchmarks.training_run_safety                          # validation tasks
    python -m benchmarks.training_run_safety --policies default bold --percentile 80
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Column, Table

from benchmarks.common.report import add_write, mean_and_error, publish
from benchmarks.runs.methods import constant, driven
from benchmarks.runs.problems import INITIAL_RATES, Problem, Rows, Task, problem, tasks
from rlhf_tune.errors import CannotCertify, TooFewSamplesError
from rlhf_tune.progress import track
from rlhf_tune.safety import Measurement, RobustAccuracy
from rlhf_tune.safety.intervals import proportion_interval
from rlhf_tune_integrations.pytorch import TorchTrainer

CONFIDENCE = 0.95
POLICIES = ("default", "grow", "bold", "constant")
_HIGHEST_FLOOR = 0.95  # half of the validation rows certifies little more
_FEWEST_ROWS = 512  # not trained on: with fewer there is hardly a floor that can be certified


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        certified: Whether its model was handed back as one that keeps the floor.
        robust: Accuracy under the full ladder on held-out data, with the floor as its bound.
        accuracy: Clean accuracy there.
        seconds: Processor time of the run.
    """

    certified: bool
    robust: Measurement
    accuracy: float
    seconds: float

    @property
    def violates(self) -> bool:
        """Whether the floor does not hold on held-out data."""
        return self.robust.value < self.robust.bound

    @property
    def surely_violates(self) -> bool:
        """Whether it does not, and it is not the luck of the held-out samples, at 95 %."""
        return self.robust.interval[1] < self.robust.bound


Pair = tuple[Outcome, Outcome]
"""With the floor as constraint, and the same run without it."""


def run(posed: Problem, policy: str, rate: float, seed: int, floor: float) -> Pair:
    """One run with a floor and one without."""
    start = partial(driven, policy, posed, rate, seed)
    judge = _robust(posed, posed.held_out, floor, full=True)
    constrained = partial(start, constraints=[_robust(posed, posed.validation, floor)])
    return _outcome(constrained, judge), _outcome(start, judge)


def _outcome(train: Callable[[], TorchTrainer], judge: RobustAccuracy) -> Outcome:
    begun, certified = time.process_time(), True
    try:
        model = train().model
    except CannotCertify as error:
        model, certified = error.best, False
    seconds = time.process_time() - begun
    robust = judge(model)
    return Outcome(certified, robust, robust.details["clean_accuracy"], seconds)


def _robust(posed: Problem, rows: Rows, floor: float, **how: Any) -> RobustAccuracy:
    return RobustAccuracy(*rows, eps=posed.data.eps, at_least=floor, confidence=CONFIDENCE, **how)


def floor_of(posed: Problem, seed: int, percentile: float) -> float:
    """The percentile of the accuracies under PGD of runs at the constant rates."""
    measure = _robust(posed, posed.held_out, 0.0, attack="pgd")
    reached = [measure(constant(posed, float(r), seed).model).value for r in posed.rates]
    return min(float(np.percentile(reached, percentile)), _HIGHEST_FLOOR)


def outcomes(
    task: Task,
    *,
    policies: Sequence[str],
    percentile: float,
    steps: int,
    data_dir: Path | None,
) -> dict[str, list[Pair]] | None:
    """The runs of a task by policy; None where there is too little data to certify anything."""
    torch.set_num_threads(1)
    posed = problem(task, steps=steps, data_dir=data_dir, validation_rows=640)
    if len(posed.data.x_val) < _FEWEST_ROWS:
        return None
    salt = zlib.crc32(posed.name.encode()) % 2**30
    floor = floor_of(posed, salt, percentile)
    numbered = list(enumerate(INITIAL_RATES, start=salt + 1))
    try:
        return {p: [run(posed, p, rate, seed, floor) for seed, rate in numbered] for p in policies}
    except TooFewSamplesError:  # of different rows: some tasks draw them from a few dozen
        return None


def summary(results: Sequence[dict[str, list[Pair]]], title: str) -> Table:
    """Violations of what was handed back, beside the same runs without a constraint."""
    table = Table(
        Column("policy", no_wrap=True),
        "runs",
        "CannotCertify",
        "violations of the certified",
        "beyond doubt",
        "the same runs, unconstrained",
        "all runs, unconstrained",
        title=f"{title}: violations on held-out data (95 % interval)",
    )
    for policy in results[0]:
        pairs = [pair for result in results for pair in result[policy]]
        kept = [pair for pair in pairs if pair[0].certified]
        table.add_row(
            policy,
            str(len(pairs)),
            str(len(pairs) - len(kept)),
            _share([bound.violates for bound, _ in kept]),
            _share([bound.surely_violates for bound, _ in kept]),
            _share([free.violates for _, free in kept]),
            _share([free.violates for _, free in pairs]),
        )
    return table


def price(results: Sequence[dict[str, list[Pair]]], title: str) -> Table:
    """What the constraint costs."""
    table = Table(
        Column("policy", no_wrap=True),
        "accuracy lost, certified",
        "accuracy lost, CannotCertify",
        "robust accuracy above the floor, certified",
        "time",
        title=f"{title}: price, constrained against unconstrained: mean ± s.e. over tasks",
    )
    for policy in results[0]:
        by_task = [result[policy] for result in results]
        kept, lost = (_only(by_task, certified) for certified in (True, False))
        table.add_row(
            policy,
            _mean(kept, lambda bound, free: free.accuracy - bound.accuracy),
            _mean(lost, lambda bound, free: free.accuracy - bound.accuracy),
            _mean(kept, lambda bound, _: bound.robust.value - bound.robust.bound),
            _mean(by_task, lambda bound, free: bound.seconds / free.seconds),
        )
    return table


def _only(by_task: Sequence[Sequence[Pair]], certified: bool) -> list[list[Pair]]:
    """The runs that were certified, or that were not, of the tasks that have some."""
    chosen = ([pair for pair in pairs if pair[0].certified == certified] for pairs in by_task)
    return [pairs for pairs in chosen if pairs]


def _mean(by_task: Sequence[Sequence[Pair]], of: Callable[[Outcome, Outcome], float]) -> str:
    means = [np.mean([of(*pair) for pair in pairs]) for pairs in by_task]
    return mean_and_error(np.array(means)) if means else "-"


def _share(those: Sequence[bool]) -> str:
    if not those:
        return "-"
    # Two one-sided bounds of 97.5 % are the usual two-sided interval of 95 %.
    low, high = proportion_interval(sum(those), len(those), 0.975)
    return f"{sum(those)} of {len(those)}: {np.mean(those):.3f} ({low:.3f}-{high:.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Print violations and price."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    chosen = tasks(args.split, files=args.data_dir is not None, count=args.tasks)
    fixed = {"percentile": args.percentile, "steps": args.steps, "data_dir": args.data_dir}
    work = partial(outcomes, policies=args.policies, **fixed)
    with ProcessPoolExecutor(args.processes) as pool:
        every = list(track(pool.map(work, chosen), "tasks", len(chosen)))
    results = [result for result in every if result is not None]
    title = f"{len(results)} {args.split} tasks, floor at percentile {args.percentile:g}"
    tables = [summary(results, title), price(results, title)]
    for table in tables:
        Console().print(table)
    if args.write:
        head = (
            f"`python -m benchmarks.training_run_safety {shlex.join(words)}`: "
            f"{len(every) - len(results)} of {len(every)} tasks have too little data; "
            f"{args.steps} gradient steps."
        )
        publish(f"training_run_safety-{args.split}", head, tables, args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_run_safety",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--policies", nargs="+", choices=POLICIES, default=["default"])
    add("--percentile", type=float, default=40, help="of the floors (40)")
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--steps", type=int, default=600, help="gradient steps of a run (600)")
    add("--data-dir", type=Path, help="folder of mnist.npz, adult.csv.gz, ... (left out)")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
