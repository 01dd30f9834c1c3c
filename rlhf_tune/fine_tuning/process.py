"""Fine-tuning by group as a process of decisions; a Gymnasium environment and `fine_tune` play it.

A decision is a group and an operation. Training is a guarded stretch of a run
(`rlhf_tune.run.guarded.GuardedRun`): it is verified, and taken back where it diverged, or where it
violates a constraint that a state before it satisfied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning import observation
from rlhf_tune.fine_tuning.observation import Floats, Memory, Seen, log_ratio
from rlhf_tune.fine_tuning.operations import GroupTrainer, Operation
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.mode import ModeName, mode_of
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.run.trainer import Metrics
from rlhf_tune.safety.measurement import Constraint

_TINY = 1e-12  # in place of the norm of weights that are all 0


@dataclass(frozen=True)
class Tuned:
    """One decision, and what came of it.

    Attributes:
        group: Its name.
        operation: Its name.
        metric: Afterwards.
        gain: Of the metric, higher is better.
        epochs: Of training.
        share: Of the weights that were trained.
        switched: Whether another group was changed than before.
        verdict: "committed", or why it was taken back; "masked" or the operation's name where
            nothing was done.
    """

    group: str
    operation: str
    metric: float
    gain: float
    epochs: float
    share: float
    switched: bool
    verdict: str


@final
class FineTuning:
    """Decisions on groups and operations, one after the other, over any trainer.

    An action is `group * len(operations) + operation`.

    Attributes:
        trainer: Of the groups.
        operations: By their numbers.
        monitor: The metric.
        steps: The most decisions of an episode.
        stretch: Optimizer steps of one.
        run: The guarded run of the episode.
        record: Its decisions.
    """

    def __init__(
        self,
        trainer: GroupTrainer,
        operations: Sequence[Operation],
        *,
        steps: int,
        stretch: int | None = None,
        constraints: Sequence[Constraint] = (),
        monitor: str | None = None,
        mode: ModeName = "auto",
    ) -> None:
        """Take charge; every episode begins where the trainer of the groups was made.

        Args:
            trainer: Of the groups.
            operations: Those that it was made with.
            steps: Decisions of an episode, at least 1.
            stretch: Optimizer steps of one; default an epoch.
            constraints: What a state must satisfy, once one did.
            monitor: Of the validation metrics; default "val_accuracy" where there is one, else
                "val_loss".
            mode: Whether less of it is better.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self.stretch = trainer.steps_per_epoch if stretch is None else stretch
        for name, value in {"steps": steps, "stretch": self.stretch}.items():
            if value < 1:
                raise InvalidInputError(f"{name} >= 1 must hold, but got {value}")
        self.trainer, self.operations, self.steps = trainer, tuple(operations), steps
        self.names = tuple(trainer.groups)
        self._constraints = tuple(constraints)
        if monitor is None:
            found = trainer.evaluate()
            monitor = "val_accuracy" if "val_accuracy" in found else "val_loss"
        self.monitor, self._mode = monitor, mode
        self._sign = 1.0 if mode_of(monitor, mode) == "max" else -1.0
        self._units = [unit.name for unit in trainer.layers.units]
        self._share = np.array([size / trainer.trainable for size in trainer.sizes.values()])
        self._depth = observation.depths(trainer.groups, self._units)
        self._origin = self._weights()
        self.record: list[Tuned] = []
        self.over, self.stopped = True, False

    def share(self, action: int) -> float:
        """Of the weights, that an action trains."""
        return float(self._share[self._parts(action)[0]])

    @property
    def actions(self) -> int:
        """Their number."""
        return len(self.names) * len(self.operations)

    def decode(self, action: int) -> tuple[str, str]:
        """The names of the group and the operation of an action.

        Raises:
            InvalidInputError: If there is no such action.
        """
        group, operation = self._parts(action)
        return self.names[group], self.operations[operation].name

    def begin(self) -> None:
        """A new episode."""
        self.trainer.begin_anew()
        self.run = GuardedRun(
            self.trainer,
            epochs=(self.steps * self.stretch) / self.trainer.steps_per_epoch,
            constraints=self._constraints,
            monitor=self.monitor,
            mode=self._mode,
        )
        self._memory = [Memory() for _ in self.names]
        self._validation: Metrics = self.run.validation
        self._start = self._validation
        self._best = self._sign * self.metric
        self._training = self._loss
        self._last: int | None = None
        self._in_vain: set[int] = set()
        self._taken = 0
        self.record = []
        self.over = self.stopped = self._looked = False

    @property
    def metric(self) -> float:
        """Of the state in hand."""
        return self._validation[self.monitor]

    def mask(self) -> NDArray[np.bool_]:
        """Which actions [A] are open: not those taken back in this state, or beyond the budget."""
        open_ = np.ones(self.actions, np.bool_)
        open_[list(self._in_vain)] = False
        if self.run.left < 1:
            trains = [operation.rate is not None for operation in self.operations]
            open_ &= ~np.tile(trains, len(self.names))
        return open_

    def step(self, action: int, steps: int | None = None) -> Tuned:
        """Carry out an action.

        One that is masked is not carried out, and costs the decision.

        Args:
            action: Its number.
            steps: Optimizer steps, in place of `stretch`.

        Raises:
            InvalidInputError: If the episode is over, or there is no such action.
        """
        if self.over:
            raise InvalidInputError(
                "an episode must be going on, but it is over; call begin() or reset()"
            )
        group, number = self._parts(action)
        operation, before = self.operations[number], self.metric
        acts, masked = operation.acts, not self.mask()[int(action)]
        self._taken += 1
        length = self.stretch if steps is None else steps
        stretch = self._attempt(action, group, number, length) if acts and not masked else None
        switched = stretch is not None and self._last not in (None, group)
        if stretch is not None:
            self._last, self._looked = group, False
        self.stopped = operation.stops
        self.over = self.stopped or self._taken >= self.steps
        tuned = Tuned(
            group=self.names[group],
            operation=operation.name,
            metric=self.metric,
            gain=self._sign * (self.metric - before),
            epochs=0.0 if stretch is None else stretch.steps / self.trainer.steps_per_epoch,
            share=float(self._share[group]) if operation.rate is not None else 0.0,
            switched=switched,
            verdict=stretch.verdict if stretch else "masked" if masked else operation.name,
        )
        self.record.append(tuned)
        return tuned

    def seen(self) -> NDArray[np.float32]:
        """The observation; see `rlhf_tune.fine_tuning.observation`."""
        if not self._looked:
            self._look()
        return observation.observe(
            Seen(
                left=max(0.0, 1 - self._taken / self.steps),
                metric=self._sign * self.metric,
                start=self._sign * self._start[self.monitor],
                best=self._best,
                loss=self._loss,
                start_loss=self._start["val_loss"],
                training=self._training,
                gradient=self._gradient,
                distance=self._distance,
                share=self._share,
                depth=self._depth,
                memory=self._memory,
                last=self._last,
            )
        )

    def hand_back(self) -> Any:
        """Leave the trainer at the best state of the episode; returns the model.

        Raises:
            CannotCertify: If no state satisfied the constraints.
        """
        self.run.hand_back(best=True)
        return self.trainer.model

    def _attempt(self, action: int, group: int, number: int, steps: int) -> Stretch:
        """A guarded stretch, and what is remembered of it."""
        before, loss = self.metric, self._loss
        steps = min(steps, max(1, self.run.left))
        stretch = self.run.attempt(self.trainer.move(group, number), steps)
        memory = self._memory[group]
        memory.spent += stretch.steps / (self.stretch * self.steps)
        if stretch.committed:
            self._validation, self._in_vain = stretch.validation, set()
            self._training = stretch.training.get("loss", self._training)
            memory.gain = self._sign * (self.metric - before)
            memory.loss = log_ratio(self._loss, loss)
        else:
            here = self.run.here
            self._validation = self.run.validation if here is None else here.validation
            self._in_vain.add(action)
            memory.gain, memory.loss = -1.0, -1.0
        self._best = max(self._best, self._sign * self.metric)
        return stretch

    def _look(self) -> None:
        """The gradients and distances [G] of the state in hand, relative to the weights.

        Only for who wants to see them: they take a pass over up to 256 samples.
        """
        now, norms = self._weights(), self.trainer.gradients()
        gradient, distance = [], []
        for held in self.trainer.groups.values():
            whole = np.concatenate([self._origin[unit] for unit in held])
            size = max(float(np.linalg.norm(whole)), _TINY)
            moved = np.concatenate([now[unit] - self._origin[unit] for unit in held])
            distance.append(float(np.linalg.norm(moved)) / size)
            gradient.append(math.hypot(*(norms.get(unit, 0.0) for unit in held)) / size)
        self._gradient, self._distance = np.array(gradient), np.array(distance)
        self._looked = True

    def _weights(self) -> dict[str, Floats]:
        """Flat, by unit, of the units that are in a group."""
        used = {unit for held in self.trainer.groups.values() for unit in held}
        return {
            name: np.concatenate([w.ravel() for w in self.trainer.layers.weights(name)])
            for name in self._units
            if name in used
        }

    @property
    def _loss(self) -> float:
        return self._validation["val_loss"]

    def _parts(self, action: int) -> tuple[int, int]:
        if not (float(action).is_integer() and 0 <= action < self.actions):
            raise InvalidInputError(
                f"an action must be a whole number below {self.actions}, but got {action}"
            )
        return divmod(int(action), len(self.operations))
