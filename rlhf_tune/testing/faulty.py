"""Trainers that fail: to see what a run, a policy or an environment makes of it.

trainer = FaultyTrainer(ScriptedTrainer(), out_of_memory(above=64), not_finite(at=5))
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, final

from rlhf_tune.run.trainer import Metrics, Trainer

Fault = Callable[[Trainer[Any], int, int], Metrics | None]
"""Told of a trainer, of how often it was trained before, and of the steps to take; it raises, or
returns what the trainer reports in place of training, or None where nothing is wrong."""


@final
class FaultyTrainer:
    """A trainer with faults: each is asked before every training, in order."""

    def __init__(self, trainer: Trainer[Any], *faults: Fault) -> None:
        self._trainer, self._faults, self._trained = trainer, faults, 0

    def train(self, steps: int) -> Metrics:
        """Train, unless a fault comes before."""
        number, self._trained = self._trained, self._trained + 1
        for fault in self._faults:
            metrics = fault(self._trainer, number, steps)
            if metrics is not None:
                return metrics
        return self._trainer.train(steps)

    def __getattr__(self, name: str) -> Any:
        """All else is the trainer's."""
        return getattr(self._trainer, name)


def raises(error: BaseException, *, at: int) -> Fault:
    """An exception, at the training of that number; `SystemExit` ends the process."""

    def fault(_trainer: Trainer[Any], number: int, _steps: int) -> None:
        if number == at:
            raise error

    return fault


def not_finite(*, at: int, loss: float = math.nan) -> Fault:
    """A training loss that is NaN or infinite, at the training of that number."""

    def fault(_trainer: Trainer[Any], number: int, _steps: int) -> Metrics | None:
        return {"steps": 1, "loss": loss} if number == at else None

    return fault


def diverges(*, above: float) -> Fault:
    """A training loss of NaN wherever the learning rate is above a limit."""

    def fault(trainer: Trainer[Any], _number: int, _steps: int) -> Metrics | None:
        too_large = trainer.hyperparameters["learning_rate"] > above
        return {"steps": 1, "loss": math.nan} if too_large else None

    return fault


def out_of_memory(*, above: float, error: type[Exception] = MemoryError) -> Fault:
    """An error that says that memory ran out, wherever the batch is larger than a limit."""

    def fault(trainer: Trainer[Any], _number: int, _steps: int) -> None:
        size = trainer.hyperparameters["batch_size"]
        if size > above:
            raise error(f"out of memory at batch size {size:g}")

    return fault


def hangs(*, at: int, seconds: float) -> Fault:
    """Nothing for so long, at the training of that number."""

    def fault(_trainer: Trainer[Any], number: int, _steps: int) -> None:
        if number == at:
            time.sleep(seconds)

    return fault
