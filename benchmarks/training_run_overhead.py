"""What the controller itself takes: snapshots, restores and decisions, as a share of training.

The share is of wall-clock time, so let nothing else run meanwhile: of a task the median of three
runs, then mean and largest by network and optimizer. For example:

    python -m benchmarks.training_run_overhead --tasks 10     # some validation tasks
    python -m benchmarks.training_run_overhead --steps 2400   # in longer runs
    python -m benchmarks.training_run_overhead --checkpoint   # what writing the runs takes
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from benchmarks.runs.methods import drive
from benchmarks.runs.problems import Problem, Task, problem, tasks
from rlhf_tune.run.checkpoints import attach
from rlhf_tune.run.driver import Run
from rlhf_tune.run.trainer import Metrics
from rlhf_tune_integrations.pytorch import TorchTrainer

_REPEATS = 3


class _Timed:
    """A trainer that says how long its training and its evaluation took."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self.training = self.evaluation = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def train(self, steps: int) -> Metrics:
        begun = time.perf_counter()
        metrics = self._trainer.train(steps)
        self.training += time.perf_counter() - begun
        return metrics

    def evaluate(self) -> Metrics:
        begun = time.perf_counter()
        metrics = self._trainer.evaluate()
        self.evaluation += time.perf_counter() - begun
        return metrics


def share(posed: Problem, seed: int, policy: str = "default") -> float:
    """Time of a run that is neither training nor evaluation, by that of training."""
    trainer = _Timed(posed.trainer(posed.usual_rate, seed))
    begun = time.perf_counter()
    drive(policy, trainer, posed)
    own = time.perf_counter() - begun - trainer.training - trainer.evaluation
    return own / trainer.training


def written(posed: Problem, seed: int) -> tuple[float, float]:
    """Time of a run's checkpoints by that of its training, and the seconds of one of them."""
    trainer = _Timed(posed.trainer(posed.usual_rate, seed))
    epochs = posed.steps / trainer.steps_per_epoch
    run = Run(trainer, epochs=epochs, usual_rate=posed.usual_rate)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        attach(run, folder)
        write = run.on_rest

        def timed() -> None:
            begun = time.perf_counter()
            write()
            seconds.append(time.perf_counter() - begun)

        run.on_rest = timed
        run.drive(lambda _: None)
    return sum(seconds) / trainer.training, float(np.median(seconds))


def table_of_writes(chosen: Sequence[Task], *, steps: int, data_dir: Path | None) -> Table:
    """What checkpoints take, by network and optimizer: the median of some runs, then the mean."""
    torch.set_num_threads(1)
    taken: dict[str, list[tuple[float, float]]] = {}
    for task in chosen:
        posed = problem(task, steps=steps, data_dir=data_dir)
        runs = np.median([written(posed, seed) for seed in range(_REPEATS)], axis=0)
        taken.setdefault(task[1], []).append((float(runs[0]), float(runs[1])))
    result = Table(
        "network-optimizer",
        "tasks",
        "by time of training",
        "ms a checkpoint",
        title="time of writing a run",
    )
    for name, each in sorted(taken.items()):
        share, seconds = np.mean(each, axis=0)
        result.add_row(name, str(len(each)), f"{share:.0%}", f"{1000 * seconds:.1f}")
    return result


def table(chosen: Sequence[Task], *, steps: int, data_dir: Path | None) -> Table:
    """The share by network and optimizer: of a run the median of some, then mean and largest."""
    torch.set_num_threads(1)
    shares: dict[str, list[float]] = {}
    for task in chosen:
        posed = problem(task, steps=steps, data_dir=data_dir)
        runs = [share(posed, seed) for seed in range(_REPEATS)]
        shares.setdefault(task[1], []).append(float(np.median(runs)))
    result = Table(
        "network-optimizer",
        "tasks",
        "mean",
        "largest",
        title="time of the controller ('default') itself by time of training",
    )
    for name, each in sorted(shares.items()):
        result.add_row(name, str(len(each)), f"{np.mean(each):.1%}", f"{max(each):.1%}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Print the shares."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    chosen = tasks(args.split, files=args.data_dir is not None, count=args.tasks)
    measure = table_of_writes if args.checkpoint else table
    shares = measure(chosen, steps=args.steps, data_dir=args.data_dir)
    Console().print(shares)
    if args.write:
        head = (
            f"`python -m benchmarks.training_run_overhead {shlex.join(words)}`: {len(chosen)} "
            f"{args.split} tasks, {args.steps} gradient steps."
        )
        block = f"checkpoint-{args.split}" if args.checkpoint else args.split
        publish(f"training_run_overhead-{block}", head, [shares], args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_run_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--steps", type=int, default=600, help="gradient steps of a run (600)")
    add("--checkpoint", action="store_true", help="what writing the runs takes")
    add("--data-dir", type=Path, help="folder of mnist.npz, adult.csv.gz, ... (left out)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
