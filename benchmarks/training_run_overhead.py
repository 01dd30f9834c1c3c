"""What the controller itself takes: snapshots, restores and decisions, as a share of training.

The share is of wall-clock time, so let nothing else run meanwhile: of a task the median of three
runs, then mean and largest by network and optimizer. With `--plain` whole runs are compared with
the loop that their user would write, over a `DataLoader`: as many steps and evaluations, by
processor time. For example:

    python -m benchmarks.training_run_overhead --tasks 10     # some validation tasks
    python -m benchmarks.training_run_overhead --plain        # beside the plain loop
    python -m benchmarks.training_run_overhead --steps 2400   # in longer runs
    python -m benchmarks.training_run_overhead --checkpoint   # what writing the runs takes
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.report import add_write, publish
from benchmarks.runs.methods import drive
from benchmarks.runs.problems import BATCH, Problem, Task, problem, tasks
from rlhf_tune.progress import track
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
        self.evaluations = 0

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
        self.evaluations += 1
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


def beside_plain(posed: Problem, seed: int) -> float:
    """Processor time of a run, by that of a plain loop of as many steps and evaluations."""
    trainer = _Timed(posed.trainer(posed.usual_rate, seed))
    begun = time.process_time()
    drive("default", trainer, posed)
    run = time.process_time() - begun
    model = posed.trainer(posed.usual_rate, seed).model
    begun = time.process_time()
    plain_loop(posed, model, trainer.evaluations)
    return run / (time.process_time() - begun)


def plain_loop(posed: Problem, model: torch.nn.Module, evaluations: int) -> None:
    """What a user writes: epochs over a shuffled `DataLoader`, and the validation loss."""
    loss_fn, parameters = torch.nn.functional.cross_entropy, model.parameters()
    optimizer: torch.optim.Optimizer = torch.optim.Adam(parameters, posed.usual_rate)
    if posed.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), posed.usual_rate, momentum=0.9)
    rows = TensorDataset(*map(torch.from_numpy, (posed.data.x_train, posed.data.y_train)))
    held = TensorDataset(*map(torch.from_numpy, posed.validation))
    batches = DataLoader(rows, batch_size=BATCH, shuffle=True)
    looks = DataLoader(held, batch_size=len(held))
    taken = looked = 0
    while taken < posed.steps:
        for x, y in batches:
            model.train()
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # it is logged
            taken += 1
            while looked * posed.steps < taken * evaluations:
                looked += 1
                model.eval()
                with torch.no_grad():
                    sum(float(loss_fn(model(x), y)) for x, y in looks)
            if taken == posed.steps:
                return


def table_beside_plain(chosen: Sequence[Task], *, steps: int, data_dir: Path | None) -> Table:
    """Whole runs by the plain loop: the median of some, then mean and largest."""
    return _table(beside_plain, chosen, "time of a run by that of a plain loop", steps, data_dir)


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
    title = "time of the controller ('default') itself by time of training"
    return _table(share, chosen, title, steps, data_dir)


def _table(
    measured: Callable[[Problem, int], float],
    chosen: Sequence[Task],
    title: str,
    steps: int,
    data_dir: Path | None,
) -> Table:
    torch.set_num_threads(1)
    shares: dict[str, list[float]] = {}
    for task in track(chosen, "tasks", len(chosen)):
        posed = problem(task, steps=steps, data_dir=data_dir)
        runs = [measured(posed, seed) for seed in range(_REPEATS)]
        shares.setdefault(task[1], []).append(float(np.median(runs)))
    result = Table("network-optimizer", "tasks", "mean", "largest", title=title)
    for name, each in sorted(shares.items()):
        result.add_row(name, str(len(each)), f"{np.mean(each):.1%}", f"{max(each):.1%}")
    every = [value for each in shares.values() for value in each]
    result.add_row("all", str(len(every)), f"{np.mean(every):.1%}", f"{max(every):.1%}")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Print the shares."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    chosen = tasks(args.split, files=args.data_dir is not None, count=args.tasks)
    measure = {"checkpoint": table_of_writes, "plain": table_beside_plain}.get(args.what, table)
    shares = measure(chosen, steps=args.steps, data_dir=args.data_dir)
    Console().print(shares)
    if args.write:
        head = (
            f"`python -m benchmarks.training_run_overhead {shlex.join(words)}`: {len(chosen)} "
            f"{args.split} tasks, {args.steps} gradient steps."
        )
        block = f"{args.what}-{args.split}" if args.what else args.split
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
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--checkpoint",
        dest="what",
        action="store_const",
        const="checkpoint",
        help="what writing the runs takes",
    )
    what.add_argument(
        "--plain",
        dest="what",
        action="store_const",
        const="plain",
        help="whole runs beside a plain loop",
    )
    add("--data-dir", type=Path, help="folder of mnist.npz, adult.csv.gz, ... (left out)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
