"""What the controller itself takes: snapshots, restores and decisions, as a share of training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.runs.methods import drive
from benchmarks.runs.problems import Problem, Task, problem
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
