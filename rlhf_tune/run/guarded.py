"""A training run in which a stretch counts only once it is verified; else it is rolled back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.certification import Certification
from rlhf_tune.run.divergence import (
    DIVERGED,
    HOPELESS,
    LOOK,
    data_fault,
    diverged,
    fault_beside_the_rate,
    in_a_row,
)
from rlhf_tune.run.memory import Memory
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.stretch import Checkpoint, Guard, Move, Stretch, Verdict, loss_of, progresses
from rlhf_tune.run.trainer import Metrics, Trainer, saving
from rlhf_tune.run.validation import Seen, Validation, check_names
from rlhf_tune.run.verification import Verification
from rlhf_tune.safety.measurement import Measure, Measurement, measure_all, name_of
from rlhf_tune.streams import streams_kept

_ROUNDING = 1e-6  # of a step or an epoch: far more than sums of floats lose
_KEPT = ("spent", "_renewed", "_cleared", "_owns", "_rate", "here", "unit", "start", "validation")


class GuardedRun:
    """Drives a trainer by stretches: each is verified, and committed or rolled back to the best.

    Rolled back is always a stretch whose training or validation loss is not finite; with a guard,
    one that ends much worse than the best so far, or the last of many that brought nothing new;
    and, once a state has satisfied the constraints, one that violates them. Before that, violations
    are reported and training goes on. Before a validation loss decides against a stretch, a trainer
    that has `refresh` is asked to make its normalisation statistics anew, and evaluated again: at
    high rates they lag behind the weights. It returns whether there are any; the fresh ones stay.
    Of such a trainer a guard may let one bad stretch pass. The state gone back to is the best by
    the monitored metric, among those that satisfy the constraints once there is one. All
    stretches are charged to the budget, but where memory runs out: then a smaller batch goes on.

    Attributes:
        record: Every stretch so far, discarded ones included.
        best: The state to go back to.
        here: The stretch that ended at the state in hand; None for the state before training.
        constraints: Their names.
        unit: Scale of the monitored metric: its absolute value before training.
        start: The constraints' measurements before training, by name.
        epochs: The budget, in samples: a larger batch makes them fewer steps.
        spent: Epochs of training charged so far.
        verification: How often the constraints are measured, and what that takes.
        certificate: The measurements that certified the model handed back, by name.
        memory: At which batch sizes it ran out.
    """

    certificate: Mapping[str, Measurement] = MappingProxyType({})

    def __init__(
        self,
        trainer: Trainer[Any],
        *,
        epochs: float,
        constraints: Sequence[Measure] = (),
        monitor: str = "val_loss",
        mode: ModeName = "min",
        guard: Guard | None = None,
        verify_every: int = 1,
    ) -> None:
        """Evaluate and measure the trainer as it is: the first state to go back to.

        Args:
            trainer: What is driven.
            epochs: The budget.
            constraints: What a committed state must satisfy, once one did; half of the samples of
                those that can divide them steer, the other half certifies what is handed back.
            monitor: The metric by which states are compared.
            mode: Whether less of it is better, or more; "auto" goes by its name.
            guard: What else is rolled back; None is nothing.
            verify_every: The constraints are measured after every so many stretches that nothing
                else discards, and after the last one of the budget. A state that was not measured
                is never the best one, once one is certified.

        Raises:
            InvalidInputError: If the budget is not positive, the trainer does not report the
                monitored metric, or constraints have the name of each other or of a metric.
            TooFewSamplesError: If half of a constraint's samples could not certify it.
        """
        self.verification = Verification(verify_every)
        if not epochs > 0:
            raise InvalidInputError(f"epochs > 0 must hold, but got {epochs}; allow a step")
        self.epochs = float(epochs)
        self.record: list[Stretch] = []
        self._trainer, self._guard, self.memory = trainer, guard, Memory(trainer)
        self._certification = Certification(constraints)
        self._constraints = self._certification.steering
        self.constraints = tuple(name_of(each) for each in self._constraints)
        self.here: Stretch | None = None
        self.spent = 0.0
        self._spare: Any = None
        self._renewed = 0.0  # spent when the best state was last reached, or gone back to
        self._settled, self._owns = True, False  # trainer stands at `here`; policy sets the rate
        self._cleared: tuple[Stretch | None, ...] = ()  # where smaller rates are known to do
        self._validation = Validation(trainer, monitor, mode)
        self.validation = self._validation.start
        value = self._validation.value(self.validation)
        check_names(self.constraints, self.hyperparameters, self.validation)
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
            DivergedError: If training diverges at any rate.
        """
        self._check_owner()
        self.set(move)
        self._settled = False
        training = self.memory.train(steps)
        if training is None:
            self.go_back()
            return self.memory.discarded(move, self.spent)
        self.charge(int(training["steps"]))
        self._check_owner()
        stretch = self._judged(move, training)
        self.record.append(stretch)
        if not stretch.committed:
            self.go_back()
            self._check_progress()
            return stretch
        self.here, self._settled = stretch, True
        if self._is_best(stretch):
            self._keep(stretch)
        self._consider(stretch)
        return stretch

    def hand_back(self, *, best: bool) -> None:
        """Leave the trainer at its last committed state, if certified, or at the best one.

        Where a constraint's samples can be divided, the state is certified on those that steered
        nothing; if it is not, the other candidates are asked, the best first.

        Raises:
            CannotCertify: If no candidate is certified; its `best` is the model, at the best state
                by the monitored metric.
        """
        self._certify(best=best)
        last = self.record[-1] if self.record else None
        if best or last is None or not (last.committed and self._holds(last)):
            self.go_back()
            self._certify(best=best)
        if not self.best.certified and not self._certification.by:
            raise self._cannot("no state of the run did; nearest to its bound was", self.measured)
        if self._certification.divides:
            self._confirm()
        else:
            self.certificate = self.start if self.here is None else self.here.measurements

    def _confirm(self) -> None:
        """Hand back the first candidate, from the state in hand on, that is certified."""
        standing, here = self.best, self.here
        if here is not None and here is not standing.stretch:
            standing = Checkpoint(self._trainer.snapshot(), here.value, True, here)
        states = self._certification.ranked(standing)
        measures, found = self._certification.certifying(len(states)), []
        for state in states:
            if state.stretch is not self.here:
                self._trainer.restore(state.snapshot)
                self.here = state.stretch
            with self._looking():
                found.append(measure_all(measures, self._trainer.model))
            if all(measured.satisfied for measured in found[-1].values()):
                self.best, self.certificate = replace(state, certified=True), found[-1]
                return
        self.go_back()
        why = f"none of the {len(found)} best states was certified on the samples that steered"
        raise self._cannot(f"{why} nothing; nearest was", found)

    def _cannot(self, why: str, found: Sequence[Mapping[str, Measurement]]) -> CannotCertify:
        from rlhf_tune.run.uncertified import sentence  # most runs need no such words

        told = sentence(why, found, self._constraints, self._advice)
        return CannotCertify(told, best=self._trainer.model)

    def state_dict(self) -> dict[str, Any]:
        """What the run is between stretches; see `rlhf_tune.run.Run.state_dict`."""
        from rlhf_tune.run.saving import Plainly  # most runs are not written

        saved, _ = saving(self._trainer)
        plainly = Plainly(self.record)
        self._spare = self._trainer.snapshot(into=self._spare)
        return {
            "record": plainly.record(),
            "best": {
                "snapshot": saved(self.best.snapshot),
                "value": self.best.value,
                "certified": self.best.certified,
                "stretch": plainly.plain(self.best.stretch),
            },
            "snapshot": saved(self._spare),
            "candidates": self._certification.state_dict(saved, plainly.plain),
            "verification": self.verification.state_dict(),
            "memory": self.memory.sizes,
            **{name: plainly.plain(getattr(self, name)) for name in _KEPT},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        from rlhf_tune.run.saving import Plainly

        _, loaded = saving(self._trainer)
        best, here = state["best"], loaded(state["snapshot"])
        snapshot = loaded(best["snapshot"])
        self._trainer.restore(here)
        self.record[:] = Plainly(self.record).stretches(state["record"])
        plainly = Plainly(self.record)
        stretch = plainly.revived(best["stretch"])
        self.best = Checkpoint(snapshot, best["value"], best["certified"], stretch)
        self._certification.load_state_dict(state["candidates"], loaded, plainly.revived)
        self._spare, self._settled = None, True
        self.verification.load_state_dict(state["verification"])
        self.memory.sizes[:] = state.get("memory", ())
        for name in _KEPT:
            setattr(self, name, plainly.revived(state[name]))

    def probe(self, steps: int) -> float:
        """Train steps, charge them, go back; returns the value they led to, or inf."""
        self._settled, rate = False, self._trainer.hyperparameters["learning_rate"]
        while (training := self.memory.train(steps)) is None:
            self.go_back()
            self._trainer.set(learning_rate=rate)
        self.charge(int(training["steps"]))
        seen = self._validation.seen(training, lambda value: value <= self.best.value)
        self.go_back()
        return math.inf if seen is None else seen.value

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
        self.take_up(self.best)
        self._renewed = self.spent

    def take_up(self, state: Checkpoint) -> None:
        """Restore a state of this run."""
        self._trainer.restore(state.snapshot)
        self.memory.fit()
        self._rate = self._trainer.hyperparameters["learning_rate"]
        self.here, self._settled = state.stretch, True

    def _certify(self, *, best: bool) -> None:
        """Measure the state in hand, if it is to be handed back and was not measured."""
        if not self._settled or (here := self.here) is None or self._measured_at(here):
            return
        if best and self.best.certified and here.value >= self.best.value:
            return
        self.here = replace(here, measurements=self._measured())
        at = next(i for i, each in enumerate(self.record) if each is here)
        self.record[at] = self.here
        if self.best.stretch is here or self._is_best(self.here):
            self._keep(self.here)
        self._consider(self.here)

    def _consider(self, stretch: Stretch) -> None:
        if self._measured_at(stretch):
            self._certification.consider(stretch, self._trainer.snapshot)

    def _measured_at(self, stretch: Stretch) -> bool:
        return len(stretch.measurements) == len(self.constraints)

    def _holds(self, stretch: Stretch) -> bool:
        """Whether it is known that all constraints hold at its end."""
        return stretch.satisfied and self._measured_at(stretch)

    def _judged(self, move: Move, training: Metrics) -> Stretch:
        stretch = Stretch.trained(move, training, self.hyperparameters, self.spent)
        seen = self._validation.seen(training, self._allowed)
        if seen is None:
            return stretch
        verdict = self._compared(seen, loss_of(training))
        due = verdict == "committed" and (self.verification.due() or not self.left)
        measured = self._measured() if due else {}
        if self._violates(measured):
            verdict = "violates"
        return replace(
            stretch,
            verdict=verdict,
            validation=seen.metrics,
            value=seen.value,
            measurements=measured,
            drift=self._drift(measured),
        )

    def _violates(self, measured: Mapping[str, Measurement]) -> bool:
        return self.best.certified and not all(m.satisfied for m in measured.values())

    def _drift(self, measured: Mapping[str, Measurement]) -> Mapping[str, float]:
        before = self.here.measurements if self.here else {}
        return {key: m.cost - before[key].cost for key, m in measured.items() if key in before}

    def _measured(self) -> Mapping[str, Measurement]:
        """Of all constraints, in a way that training does not notice."""
        if not self._constraints:
            return {}
        with self._looking():
            return measure_all(self._constraints, self._trainer.model)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """A measurement happens inside: it is timed, and leaves no trace."""
        looking = getattr(self._trainer, "only_looking", streams_kept)
        with self.verification.timed(), looking():
            yield

    def _compared(self, seen: Seen, loss: float) -> Verdict:
        """By the monitored metric and the training loss alone."""
        guard = self._guard
        if guard is not None and not self._allowed(seen.value):
            first = self.here is None or self._allowed(self.here.value)
            return "committed" if guard.spikes and seen.refreshed and first else "worse"
        if guard is None or seen.value < self.best.value:
            return "committed"
        since = self.spent - guard.patience * self.epochs + _ROUNDING
        late = self.spent > guard.until * self.epochs + _ROUNDING
        fresh = late or self._renewed > since or progresses(self.record, since, loss)
        return "committed" if fresh else "stalled"

    def _allowed(self, value: float) -> bool:
        guard = self._guard
        return guard is None or guard.allows(value, self.best.value, self.unit)

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
        """Go on where a smaller rate may help; else the run would go on in vain."""
        if getattr(self._trainer, "by_hand", False):
            if in_a_row(self.record, HOPELESS):
                raise diverged(self.record, HOPELESS, f"and the rate was cut each time; {LOOK}")
            return
        # Data that stream go on after a rollback, so what is wrong with them need not come next.
        ended = sum(stretch.verdict == "diverged" for stretch in self.record)
        streams = ended >= DIVERGED and data_fault(self._trainer) is not None
        if (in_a_row(self.record, DIVERGED) or streams) and self._cleared != (self.best.stretch,):
            # Two epochs hold a whole pass, wherever in one the data are.
            self.check_rate_is_at_fault(2 * self.steps_per_epoch if streams else 0)

    def check_rate_is_at_fault(self, steps: int = 0) -> None:
        """Train at a rate that changes no weight: what diverges even so, no smaller rate can heal.

        This tells a rate that is too large from a fault of data or loss after any number of
        divergences, so that no run is ended that could recover. It is charged like any stretch.

        Args:
            steps: To take; at least those of the last stretches are.

        Raises:
            DivergedError: If it diverges; the message names the cause, where it is seen.
        """
        last = self.record[-DIVERGED:]
        steps = min(self.left, max(steps, *(stretch.steps for stretch in last)))
        if steps < 1:
            return
        fault = fault_beside_the_rate(self._trainer, self.probe, steps)
        self._cleared = (self.best.stretch,)
        if fault:
            raise diverged(self.record, DIVERGED, f"and would at any; {fault}")

    @property
    def measured(self) -> Sequence[Mapping[str, Measurement]]:
        """All measurements of the run; where nothing was measured, those before training."""
        return [s.measurements for s in self.record if s.measurements] or [self.start]

    @property
    def _advice(self) -> str:
        """What may help, where that is not the usual."""
        return ""

    def _is_best(self, stretch: Stretch) -> bool:
        holds = self._holds(stretch)
        if holds != self.best.certified:  # what is certified comes before what is not
            return holds
        return stretch.value < self.best.value

    def _keep(self, stretch: Stretch) -> None:
        # Written into memory of its own, so that an interrupt cannot spoil the state in hand.
        snapshot = self._trainer.snapshot(into=self._spare)
        self._spare = self.best.snapshot
        self.best = Checkpoint(snapshot, stretch.value, self._holds(stretch), stretch)
        self._renewed = self.spent
