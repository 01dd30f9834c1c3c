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
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.history import Epoch, History, OnEpoch
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.range_test import Search, fine_tuning, from_scratch, is_trained
from rlhf_tune.run.schedules import ADAPTIVE
from rlhf_tune.run.state import Probe, RunState, begin, later
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.run.uncertified import tell_how_far
from rlhf_tune.safety.measurement import Constraint

if TYPE_CHECKING:
    from rlhf_tune.run.reach import Reach

# Not tuned:
_PROBE_SHARE = 0.02  # of the budget, each
_PROBE_STEPS = (4, 100)  # at least, at most
_PROBES_SHARE = 0.2  # of the budget, all of them at most

# What a run is besides its `guarded`.
_KEPT = (
    "history",
    "_place",
    "_best_place",
    "_fresh",
    "_best_fresh",
    "_discarded",
    "_stopped",
)


def budget(epochs: float | None, steps: int | None, steps_per_epoch: int) -> float:
    """The budget in epochs, of which exactly one way to say it is given.

    Args:
        epochs: Passes over the data.
        steps: Optimizer steps at the first batch size.
        steps_per_epoch: At that batch size.

    Raises:
        InvalidInputError: If it is given twice or not at all, or steps are no whole number.
    """
    if (epochs is None) == (steps is None):
        raise InvalidInputError(
            f"exactly one of `epochs` and `steps` must be given, but got epochs={epochs}, "
            f"steps={steps}"
        )
    if epochs is not None:
        return epochs
    if steps is None or not steps >= 1 or not float(steps).is_integer():
        raise InvalidInputError(f"`steps` must be a whole number >= 1, but got {steps}")
    return steps / steps_per_epoch


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
        on_rest: Called between stretches, after an epoch was seen: where the run can be saved.
    """

    def __init__(
        self,
        trainer: Trainer[Any],
        *,
        epochs: float,
        policy: str | RunPolicy = "default",
        constraints: Sequence[Constraint] = (),
        monitor: str = "val_loss",
        mode: ModeName = "min",
        usual_rate: float = ADAPTIVE,
        on_stretch: Callable[[Stretch], None] | None = None,
        verify_every: int = 1,
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
            mode: Whether less of it is better ("min") or more; "auto" goes by its name.
            usual_rate: The default learning rate of the framework for this optimizer; a range
                test begins far above it.
            on_stretch: Called after every stretch, committed or discarded.
            verify_every: The constraints are measured after every so many stretches; see
                `GuardedRun`.
            reach: In place of `constraints`: those whose remedies' weights the run moves; the
                trainer has these weights as hyperparameters.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._trainer, self._policy = trainer, resolve(policy)
        self._monitor = monitor
        self._usual_rate, self._on_stretch = usual_rate, on_stretch
        self.guarded = _guarded(reach, constraints)(
            trainer,
            epochs=epochs,
            monitor=monitor,
            mode=mode,
            guard=self._policy.guard,
            verify_every=verify_every,
        )
        self._check_start()
        bounds = {name: measured.bound for name, measured in self.guarded.start.items()}
        self.history = History(knobs=() if reach is None else reach.names, bounds=bounds)
        self.on_rest: Callable[[], None] = lambda: None
        self._asked: dict[str, Any] = {"mode": mode, "verify_every": verify_every}
        self._asked |= {} if reach is None else {"reach": reach.names}
        self._start: RunState | None = None
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
                cause = getattr(self._trainer, "validation_fault", lambda: None)()
                raise InvalidInputError(
                    f"{name!r} must be finite before training, but it is {value}; "
                    f"{cause or 'look for NaN in the validation data and in the weights'}"
                )
        if not getattr(self._trainer, "finite", True):
            raise InvalidInputError(
                "the weights must be finite before training, but some are NaN or infinite; "
                "make the model anew"
            )

    @property
    def running(self) -> bool:
        """Whether there is budget left, and nobody has stopped the run."""
        return not self._stopped and self.guarded.left > 0

    def state_dict(self) -> dict[str, Any]:
        """All that the run is between stretches: with `load_state_dict` it goes on elsewhere.

        The record, the state in hand and the best one with weights, optimizer, statistics, random
        streams and place in the data, the budget spent, the range test, the history. Plain values:
        numbers, texts, None, NumPy arrays, and lists, tuples and mappings of them; they share no
        memory with the run.

        Raises:
            InvalidInputError: If the trainer cannot be written; see `rlhf_tune.run.trainer`.
        """
        from rlhf_tune.run.saving import Plainly  # most runs are not written

        plainly = Plainly(self.guarded.record)
        start = None if self._start is None else replace(self._start, record=())
        return {
            "identity": self._identity(),
            "guarded": self.guarded.state_dict(),
            "start": plainly.plain(start),
            **{name: plainly.plain(getattr(self, name)) for name in _KEPT},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called: bit for bit, where the trainer's snapshots are.

        Args:
            state: Of a run with the same arguments, over an equal trainer.

        Raises:
            InvalidInputError: If it is of another run; nothing is changed.
        """
        from rlhf_tune.run.saving import Plainly, check_same

        check_same(self._identity(), state.get("identity", {}))
        self.guarded.load_state_dict(state["guarded"])
        plainly = Plainly(self.guarded.record, (History, Probe, RunState, _Place))
        for name in _KEPT:
            setattr(self, name, plainly.revived(state[name]))
        start = plainly.revived(state["start"])
        self._start = None if start is None else replace(start, record=self.guarded.record)

    def _identity(self) -> dict[str, Any]:
        """What must be the same where a run goes on."""
        policy = {**vars(self._policy), "decide": _name(self._policy.decide)}
        guard = self._policy.guard
        bounds = {name: [m.kind, m.bound] for name, m in self.guarded.start.items()}
        return {
            "epochs": self.guarded.epochs,
            "policy": {**policy, "guard": guard and asdict(guard)},
            "monitor": self._monitor,
            "constraints": bounds,
            **self._asked,
            **getattr(self._trainer, "identity", {}),
        }

    def stop(self) -> None:
        """End the run: no other stretch begins."""
        self._stopped = True

    def __iter__(self) -> Iterator[Epoch]:
        """Train to the end of one epoch after the other."""
        start = self._begun()
        while self.running and (steps := self._steps()) > 0:
            move = self._policy.decide(self._state(start, steps))
            if move is None:
                break
            self._advance(move, steps)
            if self._fresh and self._place.position == 0:
                yield self._epoch()
            self.on_rest()
        if self._fresh:  # the budget ended within an epoch
            yield self._epoch()
            self.on_rest()

    def drive(self, *on_epoch: OnEpoch) -> History:
        """Iterate to the end, or until Ctrl-C, and `finish`; each `on_epoch` sees every epoch.

        One that returns True ends the run; so does `stop`.

        Any other exception, SystemExit among them, leaves the model at its best state so far, and
        has it as `best` and the history so far as `history`.

        Raises:
            DivergedError: If nothing could be committed, or training diverges at any rate.
            CannotCertify: If no state satisfied the constraints.
        """
        try:
            for epoch in self:
                ends = [told(epoch) is True for told in on_epoch]
                if any(ends):
                    self.stop()
        except KeyboardInterrupt:
            self.history.interrupted = True
            self.guarded.go_back()
        except BaseException as exc:
            self._leave(exc)
            raise
        return self.finish()

    def _leave(self, exc: BaseException) -> None:
        """Keep what there is when something failed."""
        self.guarded.go_back()
        record = self.guarded.record  # a stretch that raised was not told of
        self.history.discarded = [stretch for stretch in record if not stretch.committed]
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
            CannotCertify: If no state satisfied the constraints.
            DivergedError: If training diverged and nothing was committed, or the policy ends at a
                divergence that no rate could have healed. Of both, `best` is the model, at the best
                state by the monitored metric, and `history` this run's.
        """
        try:
            if not self.history.interrupted:
                self._check_end()
            self.guarded.hand_back(best=self._policy.keeps_best or self.history.interrupted)
        except (CannotCertify, DivergedError) as error:
            error.best, error.history = self._trainer.model, self.history
            raise
        except BaseException as exc:  # to certify takes long enough to be broken off
            self._leave(exc)
            raise
        finally:
            self.history.verification = self.guarded.verification.share
            self.history.mark(self.guarded.here)
        self.history.certificate = dict(self.guarded.certificate)
        return self.history

    def _check_end(self) -> None:
        """A run that ends by divergence says so."""
        record = self.guarded.record
        if not record or record[-1].verdict != "diverged":
            return
        rate, left = record[-1].learning_rate, self.guarded.left
        if left:  # the policy gave up
            self.guarded.check_rate_is_at_fault()
        told = f"diverged at learning rate {rate:.3g}; lower it, or say policy='default'"
        if not any(stretch.committed for stretch in record):
            raise DivergedError(f"training must commit something, but every stretch {told}")
        if left:
            warnings.warn(
                f"the run ended early, at its last finite state: after {record[-1].spent:.3g} of "
                f"{self.guarded.epochs:g} epochs it {told}",
                stacklevel=3,
            )

    def _begun(self) -> RunState:
        """Where the policy begins; with a range test, after it."""
        if self._start is None:
            rate = self._range_test() if self._policy.range_test else None
            self._start = begin(self.guarded, learning_rate=rate, usual_rate=self._usual_rate)
            self.on_rest()
        return self._start

    def _state(self, start: RunState, steps: int) -> RunState:
        """What the policy knows now; the batch size changes between epochs only."""
        return later(start, self.guarded, steps, resizes=self._place.position == 0)

    def _range_test(self) -> float:
        """Probe rates for a few steps each, go back, and say which one the run warms up to."""
        left, tried, search = self.guarded.left, self.history.range_test, self._search()
        steps = min(max(_PROBE_STEPS[0], int(_PROBE_SHARE * left)), _PROBE_STEPS[1])
        rate = next(search)
        while (len(tried) + 1) * steps <= _PROBES_SHARE * left:
            self._trainer.set(learning_rate=rate)
            tried.append(Probe(rate, self.guarded.probe(steps)))
            try:
                rate = search.send(tried[-1].loss)
            except StopIteration as found:
                return float(found.value)
        return rate

    def _search(self) -> Search:
        """For a first rate, by whether the model was trained before; a trainer may know that."""
        now, start = self._trainer.hyperparameters, self.guarded.best.value
        if is_trained(getattr(self._trainer, "knowledge", lambda: math.nan)()):
            return fine_tuning(now["learning_rate"], self._usual_rate, start)
        return from_scratch(self._usual_rate, start, now.get("batch_size"))

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
        before = self.guarded.spent
        stretch = self.guarded.attempt(move, steps)
        tell_how_far(self.guarded, before)
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
        epoch = self.history.close(self._place.stretches, self._discarded, self.guarded.constraints)
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


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
