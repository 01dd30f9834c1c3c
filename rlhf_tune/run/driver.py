"""Drives one training run by a policy: what every adapter's `fit` is built on.

A `fit` makes a trainer and calls `Run(trainer, ...).drive(on_epoch)`. By hand:

    run = Run(trainer, epochs=10, policy="default", constraints=[...])
    for epoch in run:            # each was committed; the trainer stands at its end
        show(epoch.logs)
        if enough(epoch):
            run.stop()
    history = run.finish()       # the best state is restored, or CannotCertify raised

Callbacks of a framework belong into `on_epoch`: it sees an epoch after it is committed, and may
call `run.stop`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, final, get_args

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.guarded import GuardedRun, Mode
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.schedules import ADAPTIVE, next_probe
from rlhf_tune.run.state import Probe, RunState, begin, later
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint, Measurement

if TYPE_CHECKING:
    from rlhf_tune.run.reach import Reach

ModeName = Literal["auto", "min", "max"]

_RISING = ("acc", "auc", "precision", "recall", "f1")  # in the name of a metric that should rise
# Not tuned:
_PROBE_SHARE = 0.02  # of the budget, each
_PROBE_STEPS = (4, 100)  # at least, at most
_PROBES_SHARE = 0.2  # of the budget, all of them at most


@dataclass(frozen=True)
class Epoch:
    """An epoch that was committed.

    Attributes:
        number: From 0.
        logs: Training and validation metrics, the hyperparameters in effect ("learning_rate",
            "batch_size" where there is one, and further ones of the trainer), "move",
            "rolled_back" (the stretches discarded since the last committed epoch), and the
            measured value of each constraint under its name.
        measurements: Of the constraints at its end, by name.
        knobs: Weights of remedies in effect, by name.
    """

    number: int
    logs: dict[str, float | str]
    measurements: dict[str, Measurement]
    knobs: dict[str, float] = field(default_factory=dict)


@dataclass
class History:
    """What a run was.

    Attributes:
        history: A list by key of `Epoch.logs`, one entry per committed epoch.
        epoch: Their numbers.
        discarded: The stretches that were rolled back; they were charged to the budget.
        range_test: The rates that were probed before the run began.
        interrupted: Whether the user broke it off.
        knobs: The keys that are weights of remedies, under `reach=True`.
        certificate: Under `reach=True`, the measurements that certified the model handed back.
    """

    history: dict[str, list[Any]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)
    discarded: list[Stretch] = field(default_factory=list)
    range_test: list[Probe] = field(default_factory=list)
    interrupted: bool = False
    knobs: tuple[str, ...] = ()
    certificate: dict[str, Measurement] = field(default_factory=dict)

    def append(self, epoch: Epoch) -> None:
        """Add a committed epoch."""
        self.epoch.append(epoch.number)
        for key, value in epoch.logs.items():
            self.history.setdefault(key, []).append(value)


def mode_of(monitor: str, mode: ModeName) -> Mode:
    """Whether less or more of a metric is better; "auto" goes by its name.

    Raises:
        InvalidInputError: If the mode is none.
    """
    if mode not in get_args(ModeName):
        raise InvalidInputError(f"`mode` must be one of {get_args(ModeName)}, but got {mode!r}")
    if mode != "auto":
        return mode
    return "max" if any(word in monitor for word in _RISING) else "min"


@dataclass(frozen=True)
class _Place:
    """Where in an epoch a state is, and the committed stretches that led there from its start."""

    position: int = 0
    stretches: tuple[Stretch, ...] = ()

    def after(self, stretch: Stretch, whole: int) -> _Place:
        """The place at the end of a stretch; `whole` is the steps of an epoch."""
        begun = self.stretches if self.position else ()
        return _Place((self.position + stretch.steps) % whole, (*begun, stretch))


@final
class Run:
    """Iterates over the committed epochs of a training run.

    The budget is `epochs` passes over the data; range tests and discarded stretches are charged
    to it, so there may be fewer committed epochs, and the last one may be a part. An epoch is
    trained in several stretches where the policy asks for more of them than there are epochs;
    each is verified by `rlhf_tune.run.guarded.GuardedRun`, which says what is rolled back. The
    batch size changes between epochs only.

    Attributes:
        guarded: The verified run: its record, its best state.
        history: Of the epochs so far.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        *,
        epochs: float,
        policy: str | RunPolicy = "default",
        constraints: Sequence[Constraint] = (),
        monitor: str = "val_loss",
        mode: Mode = "min",
        usual_rate: float = ADAPTIVE,
        on_stretch: Callable[[Stretch], None] | None = None,
        reach: Reach | None = None,
    ) -> None:
        """Prepare a run; the trainer is evaluated, but not trained yet.

        Args:
            trainer: What is driven. It may have been trained before.
            epochs: The budget.
            policy: "default", "dqn", "grow", "bold" or "constant", or one of your own; see
                `rlhf_tune.run.policies`.
            constraints: What the model handed back must satisfy.
            monitor: A key of what the trainer's `evaluate` returns.
            mode: Whether less of it is better ("min") or more.
            usual_rate: The default learning rate of the framework for this optimizer; a range
                test begins far above it.
            on_stretch: Called after every stretch, committed or discarded.
            reach: In place of `constraints`: those whose remedies' weights the run moves; the
                trainer has these weights as hyperparameters.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._trainer, self._policy = trainer, resolve(policy)
        self._monitor = monitor
        self._usual_rate, self._on_stretch = usual_rate, on_stretch
        self._knobs = () if reach is None else reach.names
        self.guarded = _guarded(reach, constraints)(
            trainer, epochs=epochs, monitor=monitor, mode=mode, guard=self._policy.guard
        )
        self._check_start()
        self.history = History(knobs=self._knobs)
        self._parts = max(1, math.ceil(self._policy.stretches / epochs))
        self._place = self._best_place = _Place()
        # Whether anything was committed since the last epoch: here, and in the best state.
        self._fresh = self._best_fresh = False
        self._discarded = 0
        self._stopped = False

    def _check_start(self) -> None:
        """What is not finite before training can tell nothing of what training does."""
        for name, value in self.guarded.validation.items():
            if name in (self._monitor, "val_loss") and not math.isfinite(value):
                fault = getattr(self._trainer, "data_fault", lambda: None)()
                cause = "NaN in the validation data, or targets that the loss ignores?"
                raise InvalidInputError(
                    f"{name!r} must be finite before training, but it is {value}; {fault or cause}"
                )

    def stop(self) -> None:
        """End the run: no other stretch begins."""
        self._stopped = True

    def __iter__(self) -> Iterator[Epoch]:
        """Train to the end of one epoch after the other."""
        start = self._start()
        while not self._stopped and (steps := self._steps()) > 0:
            move = self._policy.decide(self._state(start, steps))
            if move is None:
                break
            self._advance(move, steps)
            if self._fresh and self._place.position == 0:
                yield self._epoch()
        if self._fresh:  # the budget ended within an epoch
            yield self._epoch()

    def drive(self, on_epoch: Callable[[Epoch], None]) -> History:
        """Iterate to the end, or until Ctrl-C, and `finish`; `on_epoch` sees every epoch.

        Any other exception leaves the model at its best state so far, and has it as `best` and
        the history so far as `history`.
        """
        try:
            for epoch in self:
                on_epoch(epoch)
        except KeyboardInterrupt:
            self.history.interrupted = True
        except Exception as exc:
            self._leave(exc)
            raise
        return self.finish()

    def _leave(self, exc: Exception) -> None:
        """Keep what there is when something failed."""
        self.guarded.go_back()
        epochs, best = len(self.history.epoch), self.guarded.best.stretch
        place = "before training" if best is None else f"after {best.spent:.3g} epochs"
        exc.add_note(
            f"rlhf_tune: {epochs} epochs were committed; the model is at its best state, {place}; "
            f"`history` and `best` of this exception hold what there is"
        )
        exc.__dict__.update(history=self.history, best=self._trainer.model)

    def finish(self) -> History:
        """Hand back the model: at its best state, where the policy or a constraint asks for it.

        Raises:
            CannotCertify: If no state satisfied the constraints; `best` is the model, at the best
                state by the monitored metric, and `history` this run's.
        """
        try:
            self.guarded.hand_back(best=self._policy.keeps_best or self.history.interrupted)
        except CannotCertify as error:
            error.history = self.history
            raise
        self.history.certificate = dict(self.guarded.certificate)
        return self.history

    def _start(self) -> RunState:
        """Where the policy begins; with a range test, after it."""
        rate = self._range_test() if self._policy.range_test else None
        return begin(self.guarded, learning_rate=rate, usual_rate=self._usual_rate)

    def _state(self, start: RunState, steps: int) -> RunState:
        """What the policy knows now; the batch size changes between epochs only."""
        return later(start, self.guarded, steps, resizes=self._place.position == 0)

    def _range_test(self) -> float:
        """Probe rates for a few steps each, go back, and say which one the run warms up to."""
        left, tried, before = self.guarded.left, self.history.range_test, self.guarded.best.value
        steps = min(max(_PROBE_STEPS[0], int(_PROBE_SHARE * left)), _PROBE_STEPS[1])
        while rate := next_probe(tried, self._usual_rate, before):
            if (len(tried) + 1) * steps > _PROBES_SHARE * left:
                return rate if tried else self._usual_rate
            self._trainer.set(learning_rate=rate)
            tried.append(Probe(rate, self.guarded.probe(steps)))
        return tried[-1].learning_rate

    def _steps(self) -> int:
        """To the end of the present part of the epoch, or of the budget."""
        whole = self._trainer.steps_per_epoch
        parts, position = min(self._parts, whole), self._place.position
        ends = (whole * (i + 1) // parts for i in range(parts))
        end = next(end for end in ends if end > position)
        return min(end - position, self.guarded.left)

    def _advance(self, move: Move, steps: int) -> None:
        """Train a stretch, and note where the run stands then."""
        if "batch_size" in move.hyperparameters:
            self.guarded.set(move)
            steps = self._steps()
        stretch = self.guarded.attempt(move, steps)
        if stretch.committed:
            self._place = self._place.after(stretch, self._trainer.steps_per_epoch)
            self._fresh = True
            if self.guarded.best.stretch is stretch:
                self._best_place, self._best_fresh = self._place, True
        else:
            self._place, self._fresh = self._best_place, self._best_fresh
            self._discarded += 1
            self.history.discarded.append(stretch)
        if self._on_stretch:
            self._on_stretch(stretch)
        if self.guarded.hopeless:
            self.stop()

    def _epoch(self) -> Epoch:
        """Close the epoch in hand."""
        stretches = self._place.stretches
        last = stretches[-1]
        logs: dict[str, float | str] = {
            **_mean(stretches),
            **last.validation,
            **last.hyperparameters,
            "move": next((s.move for s in reversed(stretches) if s.move != "stay"), "stay"),
            "rolled_back": self._discarded,
            **{name: m.value for name, m in last.measurements.items()},
        }
        knobs = {name: last.hyperparameters[name] for name in self._knobs}
        epoch = Epoch(len(self.history.epoch), logs, dict(last.measurements), knobs)
        self.history.append(epoch)
        self._discarded, self._fresh, self._best_fresh = 0, False, False
        return epoch


def reach_of(constraints: Sequence[Constraint]) -> Reach:
    """How a run reaches for these bounds; see `rlhf_tune.run.reach.Reach.of`."""
    from rlhf_tune.run.reach import Reach  # a run without needs none of it

    return Reach.of(constraints)


def _guarded(reach: Reach | None, constraints: Sequence[Constraint]) -> Callable[..., GuardedRun]:
    """The verified run; one that reaches for its bounds is another matter, and loaded for it."""
    if reach is None:
        return partial(GuardedRun, constraints=constraints)
    from rlhf_tune.run.reaching import ReachingRun

    return partial(ReachingRun, reach=reach)


def _mean(stretches: Sequence[Stretch]) -> dict[str, float]:
    """Training metrics over all stretches; each is a mean over its steps."""
    total = sum(s.steps for s in stretches)
    return {
        key: sum(s.training[key] * s.steps for s in stretches) / total
        for key in stretches[-1].training
    }
