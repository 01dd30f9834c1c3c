"""A training run in which a stretch counts only once it is verified; else it is rolled back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.stretch import Guard, Move, Stretch, Verdict
from rlhf_tune.run.trainer import Metrics, Trainer
from rlhf_tune.safety.measurement import (
    Measure,
    Measurement,
    check_constraints,
    measure_all,
    name_of,
)
from rlhf_tune.streams import streams_kept

Mode = Literal["min", "max"]
Looking = Callable[[], AbstractContextManager[None]]

_FEWEST_STEPS = 8  # of an epoch, at the largest batch
_DIVERGED = 8  # stretches in a row, at ever lower rates
_LOGGED = ("loss", "move", "rolled_back")  # further keys of the history
_ROUNDING = 1e-6  # of a step or an epoch: far more than sums of floats lose


@dataclass(frozen=True)
class Checkpoint:
    """A committed state to go back to.

    Attributes:
        snapshot: The trainer's.
        value: The monitored metric there, lower is better.
        certified: Whether the constraints hold there; without any, they do.
        stretch: That ended there; None for the state before training.
    """

    snapshot: Any
    value: float
    certified: bool
    stretch: Stretch | None = None


class GuardedRun:
    """Drives a trainer by stretches: each is verified, and committed or rolled back to the best.

    Rolled back is always a stretch whose training or validation loss is not finite; with a guard,
    one that ends much worse than the best so far, or the last of many that brought nothing new;
    and, once a state has satisfied the constraints, one that violates them. Before that, violations
    are reported and training goes on. The state gone back to is the best by the monitored metric,
    among those that satisfy the constraints once there is one. Whatever becomes of a stretch, it is
    charged to the budget.

    Attributes:
        record: Every stretch so far, discarded ones included.
        best: The state to go back to.
        here: The stretch that ended at the state in hand; None for the state before training.
        constraints: Their names.
        unit: Scale of the monitored metric: its absolute value before training.
        start: The constraints' measurements before training, by name.
        epochs: The budget, in samples: a larger batch makes them fewer steps.
        spent: Epochs of training charged so far.
        certificate: What certified the model handed back, where that is more than `best` says.
    """

    certificate: Mapping[str, Measurement] = MappingProxyType({})

    def __init__(
        self,
        trainer: Trainer[Any],
        *,
        epochs: float,
        constraints: Sequence[Measure] = (),
        monitor: str = "val_loss",
        mode: Mode = "min",
        guard: Guard | None = None,
    ) -> None:
        """Evaluate and measure the trainer as it is: the first state to go back to.

        Args:
            trainer: What is driven.
            epochs: The budget.
            constraints: What a committed state must satisfy, once one did.
            monitor: The metric by which states are compared.
            mode: Whether less of it is better.
            guard: What else is rolled back; None is nothing.

        Raises:
            InvalidInputError: If the budget is not positive, the trainer does not report the
                monitored metric, or constraints have the name of each other or of a metric.
        """
        if not epochs > 0:
            raise InvalidInputError(f"epochs > 0 must hold, but got {epochs}; allow a step")
        self.epochs = float(epochs)
        self.record: list[Stretch] = []
        self._trainer, self._guard = trainer, guard
        self._constraints = check_constraints(constraints)
        self.constraints = tuple(name_of(each) for each in self._constraints)
        self.here: Stretch | None = None
        self._monitor, self._sign = monitor, -1.0 if mode == "max" else 1.0
        self.spent = 0.0
        self._renewed = 0.0  # spent when the best state was last reached, or gone back to
        self._spare: Any = None
        self._owns = False  # whether the policy sets the learning rate
        self.validation = as_metrics(trainer.evaluate())
        value = self._value(self.validation)
        self._check_names()
        self.unit = abs(value) if math.isfinite(value) and value else 1.0
        self.start = self._measured()
        # Any ceiling holds before training; only a floor says that there is something to lose.
        floors = any(m.kind == "floor" for m in self.start.values())
        kept = all(m.satisfied for m in self.start.values())
        certified = kept and (floors or not self.start)
        self.best = Checkpoint(trainer.snapshot(), value, certified=certified)
        self._rate = trainer.hyperparameters["learning_rate"]

    @property
    def hopeless(self) -> str | None:
        """Why the run cannot reach its bounds; None while it may."""
        return None

    @property
    def hyperparameters(self) -> dict[str, float]:
        """In effect, by name; a batch size is a whole number."""
        now = dict(self._trainer.hyperparameters)
        return now if "batch_size" not in now else {**now, "batch_size": int(now["batch_size"])}

    @property
    def steps_per_epoch(self) -> int:
        """The steps of a whole epoch at the batch size in effect."""
        return self._trainer.steps_per_epoch

    @property
    def left(self) -> int:
        """Steps that the budget still allows at the batch size in effect."""
        return math.floor((self.epochs - self.spent) * self._trainer.steps_per_epoch + _ROUNDING)

    def charge(self, steps: int) -> None:
        """Charge steps taken outside of a stretch, at the batch size in effect."""
        self.spent += steps / self._trainer.steps_per_epoch

    def attempt(self, move: Move, steps: int) -> Stretch:
        """Make a move, train, and commit or roll back.

        Args:
            move: Set before training.
            steps: To take, at least 1.

        Raises:
            InvalidInputError: If the trainer refuses the move, or somebody else has set the rate.
            DivergedError: If training has diverged too often in a row.
        """
        self._check_owner()
        self.set(move)
        training = self._trainer.train(steps)
        self.charge(int(training["steps"]))
        self._check_owner()
        stretch = self._judged(move, training)
        self.record.append(stretch)
        if not stretch.committed:
            self.go_back()
            self._check_progress()
            return stretch
        self.here = stretch
        if self._is_best(stretch):
            self._keep(stretch)
        return stretch

    def hand_back(self, *, best: bool) -> None:
        """Leave the trainer at its last committed state, if certified, or at the best one.

        Raises:
            CannotCertify: If no state satisfied the constraints; its `best` is the model, at the
                best state by the monitored metric.
        """
        last = self.record[-1] if self.record else None
        if best or last is None or not (last.committed and last.satisfied):
            self.go_back()
        if not self.best.certified:
            raise CannotCertify(
                f"the model handed back must satisfy its constraints, but no state of the run "
                f"did; nearest to its bound was {self._figures()}; {self._advice()}lower the "
                f"bounds, train longer, or measure on more samples",
                best=self._trainer.model,
            )

    def probe(self, steps: int) -> float:
        """Train steps, charge them, and go back; returns the monitored value they led to.

        Lower is better; inf where it diverged.
        """
        training = self._trainer.train(steps)
        self.charge(int(training["steps"]))
        evaluated = self._evaluated(training)
        self.go_back()
        return math.inf if evaluated is None else evaluated[1]

    def set(self, move: Move) -> None:
        """Make a move without training.

        Raises:
            InvalidInputError: If the trainer refuses it.
        """
        if move.hyperparameters:
            self._trainer.set(**move.hyperparameters)
        if "learning_rate" in move.hyperparameters:
            self._owns, self._rate = True, self._trainer.hyperparameters["learning_rate"]

    def go_back(self) -> None:
        """Restore the best state."""
        self._trainer.restore(self.best.snapshot)
        self._rate = self._trainer.hyperparameters["learning_rate"]
        self.here = self.best.stretch
        self._renewed = self.spent

    def _stretch(self, move: Move, training: Metrics) -> Stretch:
        return Stretch(
            move=move.name,
            factor=move.factor,
            hyperparameters=self.hyperparameters,
            steps=int(training["steps"]),
            spent=self.spent,
            training={k: v for k, v in training.items() if k not in ("steps", "spread")},
            spread=training.get("spread", math.nan),
        )

    def _judged(self, move: Move, training: Metrics) -> Stretch:
        stretch, evaluated = self._stretch(move, training), self._evaluated(training)
        if evaluated is None:
            return stretch
        validation, value = evaluated
        verdict = self._compared(value, _loss(training))
        measured = self._measured() if verdict == "committed" else {}
        if self._violates(measured):
            verdict = "violates"
        return replace(
            stretch,
            verdict=verdict,
            validation=validation,
            value=value,
            measurements=measured,
            drift=self._drift(measured),
        )

    def _violates(self, measured: Mapping[str, Measurement]) -> bool:
        return self.best.certified and not all(m.satisfied for m in measured.values())

    def _drift(self, measured: Mapping[str, Measurement]) -> Mapping[str, float]:
        before = self.here.measurements if self.here else {}
        return {
            name: measured[name].cost - before[name].cost for name in measured if name in before
        }

    def _measured(self) -> Mapping[str, Measurement]:
        """Of all constraints, in a way that training does not notice."""
        if not self._constraints:
            return {}
        with self._looking():
            return measure_all(self._constraints, self._trainer.model)

    def _looking(self) -> AbstractContextManager[None]:
        looking: Looking = getattr(self._trainer, "only_looking", streams_kept)
        return looking()

    def _compared(self, value: float, loss: float) -> Verdict:
        """By the monitored metric and the training loss alone."""
        if self._guard is None:
            return "committed"
        if not self._guard.allows(value, self.best.value, self.unit):
            return "worse"
        return "stalled" if self._stalled(value, loss, self._guard) else "committed"

    def _stalled(self, value: float, loss: float, guard: Guard) -> bool:
        since = self.spent - guard.patience * self.epochs + _ROUNDING
        late = self.spent > guard.until * self.epochs + _ROUNDING
        if late or self._renewed > since or value < self.best.value:
            return False
        committed = [s for s in self.record if s.committed]
        before = [_loss(s.training) for s in committed if s.spent <= since]
        after = [_loss(s.training) for s in committed if s.spent > since]
        return bool(before) and min([*after, loss]) >= min(before)

    def _evaluated(self, training: Metrics) -> tuple[Metrics, float] | None:
        """Validation metrics and the monitored value; None if something is not finite."""
        if not math.isfinite(training.get("loss", 0.0)):
            return None
        validation = as_metrics(self._trainer.evaluate())
        value = self._value(validation)
        finite = math.isfinite(value) and math.isfinite(validation.get("val_loss", 0.0))
        return (validation, value) if finite and getattr(self._trainer, "finite", True) else None

    def _check_names(self) -> None:
        """Constraints and metrics share the history."""
        metrics = {name.removeprefix("val_") for name in self.validation}
        taken = {*_LOGGED, *self.hyperparameters, *self.validation, *metrics}
        twice = sorted(taken & {*self.constraints})
        if twice:
            raise InvalidInputError(
                f"constraints must not have the names of metrics, but got {twice}; "
                f"give each a name of its own: name='...'"
            )

    def _check_owner(self) -> None:
        """Once a policy has set the rate, nobody else may."""
        now = self._trainer.hyperparameters["learning_rate"]
        scheduled = getattr(self._trainer, "scheduled", False)  # moves by itself, as it should
        if self._owns and not scheduled and not math.isclose(now, self._rate, rel_tol=1e-5):
            raise InvalidInputError(
                f"the learning rate must have one owner, but the policy set {self._rate:.4g} and "
                f"it is {now:.4g}: a callback, a scheduler or train_step sets it too; "
                f"leave that out, or say policy='constant'"
            )

    def _check_progress(self) -> None:
        last = self.record[-_DIVERGED:]
        if len(last) < _DIVERGED or any(s.verdict != "diverged" for s in last):
            return
        rates = [stretch.learning_rate for stretch in last]
        fault = getattr(self._trainer, "data_fault", lambda: None)()
        raise DivergedError(
            f"training must stay finite, but diverged {_DIVERGED} times in a row, at learning "
            f"rates from {min(rates):.3g} to {max(rates):.3g}; "
            f"{fault or 'look for NaN in the data, and for logarithms and divisions in the loss'}"
        )

    def _figures(self) -> str:
        """Of each constraint the measurement that came nearest to its bound."""
        measured = [s.measurements for s in self.record if s.measurements] or [self.start]
        return self._nearest(measured)

    def _nearest(self, measured: Sequence[Mapping[str, Measurement]]) -> str:
        nearest = (
            min((m[name] for m in measured if name in m), key=lambda one: one.cost)
            for name in self.constraints
        )
        return ", ".join(map(_told, nearest))

    def _advice(self) -> str:
        """On what a run that may move more could reach."""
        remedies = (getattr(each, "remedy", lambda: None)() for each in self._constraints)
        names = [name for remedy in remedies if remedy is not None for name in remedy.names]
        return f"reach=True trains against them (moves {', '.join(names)}); else " if names else ""

    def _is_best(self, stretch: Stretch) -> bool:
        first = stretch.satisfied and not self.best.certified
        return first or stretch.value < self.best.value

    def _keep(self, stretch: Stretch) -> None:
        # Written into memory of its own, so that an interrupt cannot spoil the state in hand.
        snapshot = self._trainer.snapshot(into=self._spare)
        self._spare = self.best.snapshot
        self.best = Checkpoint(snapshot, stretch.value, stretch.satisfied, stretch)
        self._renewed = self.spent

    def _value(self, metrics: Metrics) -> float:
        if self._monitor not in metrics:
            raise InvalidInputError(
                f"`monitor` must be one of {sorted(metrics)}, but got {self._monitor!r}"
            )
        return self._sign * metrics[self._monitor]


def largest_batch(size: int, steps_per_epoch: int) -> int:
    """The size to which a batch may grow, so that an epoch keeps some steps."""
    return size * max(1, steps_per_epoch // _FEWEST_STEPS)


def _told(measured: Measurement) -> str:
    """The value, and the end of its interval that decides."""
    told = f"{measured.name} = {measured.value:.4g} for a bound of {measured.bound:.4g}"
    side, end = (0, "lower") if measured.kind == "floor" else (1, "upper")
    if measured.interval[side] == measured.value:
        return told
    doubt = "" if measured.trusted else ", not trusted"
    missed = f"missed by {measured.missed:.2g}" if measured.missed > 0 else "kept"
    return f"{told} ({end} bound {measured.interval[side]:.4g}, {missed}{doubt})"


def _loss(training: Metrics) -> float:
    return training.get("loss", math.inf)
