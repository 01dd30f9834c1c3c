"""Real training runs in which something happens on the way that the default policy cannot foresee.

A *setting* says what: nothing ("plain"); from some step on the rate has a tenth to ten times the
effect it had ("rate"); the training data change in the middle ("shift"); or accuracy under FGSM
has a floor that binds ("constraint"). What happens depends on the seed alone, and happens at the
same gradient step whatever was rolled back before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.runs.problems import Problem
from rlhf_tune.errors import CannotCertify
from rlhf_tune.run.driver import Run
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.run.trainer import Metrics, Trainer
from rlhf_tune.safety import RobustAccuracy
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch.optimizers import usual_rate
from rlhf_tune_integrations.pytorch.trainer import TorchTrainer

SETTINGS = ("plain", "rate", "shift", "constraint")
_WRONG_LABELS = 0.4
_FLOOR = 0.6  # quantile of what the default policy measures on its way


@dataclass(frozen=True)
class Event:
    """What happens once so many gradient steps were taken; the rate is multiplied by `factor`."""

    step: int
    factor: float = 1.0
    do: Callable[[], None] = lambda: None


class DisturbedTrainer:
    """A trainer to which an event happens; snapshots do not bring back the time before it."""

    def __init__(self, trainer: TorchTrainer, event: Event) -> None:
        """Wait for the event."""
        self._inner, self._event, self._taken = trainer, event, 0
        self._rate = trainer.hyperparameters["learning_rate"]

    @property
    def model(self) -> Any:
        """What is trained."""
        return self._inner.model

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """As set; the event is not to be seen."""
        return {**self._inner.hyperparameters, "learning_rate": self._rate}

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch."""
        return self._inner.steps_per_epoch

    def train(self, steps: int) -> Metrics:
        """Take steps, before and after the event."""
        before = self._event.step - self._taken
        if not 0 < before <= steps:
            return self._train(steps)
        first = self._train(before)
        self._event.do()
        self._set_rate()
        if before == steps or not math.isfinite(first["loss"]):
            return first
        second = self._train(steps - before)
        total = first["steps"] + second["steps"]
        loss = (first["steps"] * first["loss"] + second["steps"] * second["loss"]) / total
        return {"steps": total, "loss": loss}

    def evaluate(self) -> Metrics:
        """Metrics on the validation data."""
        return self._inner.evaluate()

    def set(self, **hyperparameters: float) -> None:
        """Change the learning rate or the batch size."""
        self._inner.set(**hyperparameters)
        self._rate = hyperparameters.get("learning_rate", self._rate)
        self._set_rate()

    def snapshot(self, into: Any = None) -> Any:
        """The whole state."""
        return self._inner.snapshot(None if into is None else into[0]), self._rate

    def restore(self, snapshot: Any) -> None:
        """Go back to a state."""
        self._inner.restore(snapshot[0])
        self._rate = snapshot[1]
        self._set_rate()

    def _train(self, steps: int) -> Metrics:
        metrics = self._inner.train(steps)
        self._taken += int(metrics["steps"])
        return metrics

    def _set_rate(self) -> None:
        factor = self._event.factor if self._taken >= self._event.step else 1.0
        self._inner.set(learning_rate=self._rate * factor)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        value: The best certified validation loss, in units of that before training; 1 if no state
            was certified.
        loss: On held-out data, in units of that of a uniform guess; likewise.
        accuracy: On held-out data.
        certified: Whether a state satisfied the constraint.
        violations: Stretches discarded because they violated it.
        moves: Stretches with a move of the policy's own.
        record: Every stretch.
    """

    value: float
    loss: float
    accuracy: float
    certified: bool
    violations: int
    moves: int
    record: Sequence[Stretch]


@dataclass(frozen=True)
class Disturbed:
    """A problem in a setting; equal ones are equal runs under equal policies.

    Attributes:
        problem: Network, optimizer and data.
        setting: One of `SETTINGS`.
        seed: Of weights, batches and what happens.
        floor: Of the accuracy under FGSM, where that is the setting.
    """

    problem: Problem
    setting: str
    seed: int
    floor: float = -1.0

    def bound(self) -> Disturbed:
        """The same with a floor that binds, found by a run of the default policy without one."""
        if self.setting != "constraint":
            return self
        record = self.play("default").record
        lows = [m.bound - m.cost for s in record for m in s.measurements.values()]
        return replace(self, floor=float(np.quantile(lows, _FLOOR)))

    def play(self, policy: str | RunPolicy) -> Outcome:
        """One run."""
        inner, event = self._start()
        trainer: Trainer[Any] = inner if event is None else DisturbedTrainer(inner, event)
        run = Run(
            trainer,
            epochs=self.problem.steps / trainer.steps_per_epoch,
            policy=policy,
            constraints=self._constraints(),
            usual_rate=usual_rate(inner._optimizer),
        )
        with contextlib.suppress(CannotCertify):
            run.drive(lambda _: None)
        return self._outcome(run.guarded, inner)

    def _outcome(self, run: GuardedRun, trainer: TorchTrainer) -> Outcome:
        problem, certified = self.problem, run.best.certified
        return Outcome(
            value=run.best.value / run.unit if certified else 1.0,
            loss=_held_out_loss(problem, trainer) if certified else 1.0,
            accuracy=problem.score(trainer) if certified else 1 / problem.data.n_classes,
            certified=certified,
            violations=sum(s.verdict == "violates" for s in run.record),
            moves=sum(" x" in s.move for s in run.record),
            record=run.record,
        )

    def _start(self) -> tuple[TorchTrainer, Event | None]:
        """A fresh trainer, and what will happen to it."""
        problem, rate = self.problem, 1e-3  # any: there is a range test
        rng = np.random.default_rng((self.seed, SETTINGS.index(self.setting)))
        step = int(rng.uniform(0.2, 0.6) * problem.steps)
        if self.setting == "rate":
            factor = 10 ** float(rng.choice([-1, 1]) * rng.uniform(0.5, 1))
            return problem.trainer(rate, self.seed), Event(step, factor)
        if self.setting == "shift":
            labels, then = _two_labels(problem.data.y_train, rng)
            problem = replace(problem, data=replace(problem.data, y_train=labels))
            # The trainer's tensor is a view of the array.
            return problem.trainer(rate, self.seed), Event(step, do=lambda: np.copyto(labels, then))
        return problem.trainer(rate, self.seed), None

    def _constraints(self) -> tuple[Constraint, ...]:
        if self.setting != "constraint":
            return ()
        eps, floor = self.problem.data.eps, max(self.floor, 0.0)
        return (RobustAccuracy(*self.problem.validation, eps=eps, at_least=floor),)


def _two_labels(
    true: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Training labels [n] of which many are wrong, and the true ones; or the other way round."""
    wrong = np.where(rng.random(len(true)) < _WRONG_LABELS, rng.permutation(true), true)
    return (wrong, true) if rng.random() < 0.5 else (true.copy(), wrong)


@torch.no_grad()
def _held_out_loss(problem: Problem, trainer: TorchTrainer) -> float:
    x, y = (torch.from_numpy(rows) for rows in problem.held_out)
    loss = torch.nn.functional.cross_entropy(trainer.model.eval()(x), y)
    return float(loss) / math.log(problem.data.n_classes)
