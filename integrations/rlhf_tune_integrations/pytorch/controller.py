"""A controller for torch loops written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, final

import torch

from rlhf_tune.errors import CannotCertify, DivergedError, InvalidInputError
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.history import History
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.mode import ModeName, mode_of
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.state import begin, later
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.run.uncertified import tell_how_far
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch.modules import all_finite, check_optimizer
from rlhf_tune_integrations.pytorch.state import State, Stateful
from rlhf_tune_integrations.pytorch.stepping import Stepping


@final
class Controller:
    """Moves the learning rate of a loop written by hand, and rolls back what went wrong.

    Its place in the loop::

        def validate():
            return {"val_loss": ...}

        steps = len(loader)
        with Controller(model, optimizer, epochs=20, validate=validate, steps_per_epoch=steps) as c:
            while c.running:
                for batch in loader:
                    loss = train_step(batch)
                    if not c.after_step(loss):
                        break
            c.finish()

    So told of each optimizer step it decides as `fit` does, range test and stretches within an
    epoch included. A loop that cannot be asked for its metrics at any time tells of epochs::

        controller = Controller(model, optimizer, epochs=20, before=validate())
        while controller.running:
            train_one_epoch(model, optimizer)
            controller.after_epoch(validate())
        controller.finish()

    Then the rate that it warms up to is the one that the optimizer has when the controller is made.
    What is rolled back are the model, the optimizer, `state` and the random streams; the order of
    the data is the loop's. Used by `with`, it leaves the model at its best state also where the
    loop raises.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        before: Mapping[str, float] | None = None,
        validate: Callable[[], Mapping[str, float]] | None = None,
        steps_per_epoch: int | None = None,
        constraints: Sequence[Constraint] = (),
        monitor: str = "val_loss",
        mode: ModeName = "auto",
        state: Sequence[Stateful] = (),
        policy: str | RunPolicy = "default",
    ) -> None:
        """Remember the state as it is; see `fit` for the arguments not named here.

        Args:
            model: That the loop trains.
            optimizer: That it steps.
            epochs: How many it may train.
            before: The metrics before training, the monitored one among them. With them the first
                epoch is guarded too, and the untrained state is handed back if none was better;
                without them the first epoch is taken as it comes.
            validate: Returns metrics, the monitored one among them, of the model as it is, in
                evaluation mode and without gradients; the loop then tells of steps.
            steps_per_epoch: Optimizer steps of an epoch, with `validate`.
            constraints: What the model handed back must satisfy.
            monitor: The metric by which states are compared.
            mode: Whether less or more of it is better.
            state: Further objects that training changes.
            policy: As for `fit`, but for "grow": a loop's batch size is its own.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        if policy == "grow":
            raise InvalidInputError(
                "`policy` must leave the batch size alone, which is the loop's own, but got "
                "'grow'; say 'default', or use fit"
            )
        check_optimizer(model, optimizer)
        self._policy, mode = resolve(policy), mode_of(monitor, mode)
        self._stepping: Stepping | None = None
        self._move: Move | None = None
        if validate is not None:
            self._stepping = Stepping(
                model,
                optimizer,
                validate,
                steps_per_epoch,
                state,
                epochs=epochs,
                policy=self._policy,
                constraints=constraints,
                monitor=monitor,
                mode=mode,
            )
            return
        known = {monitor: math.inf if mode == "min" else -math.inf}
        if before is not None:
            known = _checked(as_metrics(before), monitor)
        self._loop = _Loop(State(model, optimizer, state), known)
        self._history, self._discarded = History(), 0
        self._guarded = GuardedRun(
            self._loop,
            epochs=epochs,
            constraints=constraints,
            monitor=monitor,
            mode=mode,
            guard=self._policy.guard,
        )
        self.history.bounds = {name: m.bound for name, m in self._guarded.start.items()}
        self._start = begin(self._guarded)
        self._move = self._next_move()
        if self._move is not None:
            self._guarded.set(self._move)

    @property
    def record(self) -> Sequence[Stretch]:
        """What became of each stretch; of a loop that tells of epochs each is one."""
        return (self._stepping.run.guarded if self._stepping else self._guarded).record

    @property
    def history(self) -> History:
        """As that of `fit`: an entry per committed epoch, and what was discarded."""
        return self._stepping.run.history if self._stepping else self._history

    @property
    def running(self) -> bool:
        """Whether another step, or epoch, is left and makes sense."""
        return self._stepping.running if self._stepping else self._move is not None

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Where a loop that tells of steps raised, the model goes back; Ctrl-C ends it as usual."""
        if self._stepping is None or not self._stepping.running:
            return False
        self._stepping.end(exc)  # raises what ended the loop
        return True

    def after_step(self, loss: float | torch.Tensor) -> bool:
        """Tell of an optimizer step; returns whether the loop goes on.

        Between two steps the rate may be moved, or the model rolled back.

        Args:
            loss: Of the step; one that is not finite is a divergence.

        Raises:
            InvalidInputError: If there is no `validate`, or the run is over.
            DivergedError: If training diverges at any rate; it carries the history.
        """
        if self._stepping is None:
            raise InvalidInputError("`validate` must be given where the loop tells of steps")
        number = loss.detach() if isinstance(loss, torch.Tensor) else loss
        return self._stepping.stepped(float(number))

    def after_epoch(self, metrics: Mapping[str, float]) -> Stretch:
        """Commit an epoch or roll it back, and set the rate of the next one.

        Args:
            metrics: The monitored one among them; "loss" is watched for divergence and progress.

        Raises:
            InvalidInputError: If the monitored metric is missing, or the budget is used up.
            DivergedError: If too many epochs in a row diverged; it carries the history.
        """
        if self._stepping is not None:
            raise InvalidInputError("with `validate` the loop must tell of steps: after_step(loss)")
        if self._move is None:
            raise InvalidInputError("an epoch must be left, but the run is over; see `running`")
        self._loop.metrics = as_metrics(metrics)
        made = Move(self._move.name, factor=self._move.factor)  # its rate is set already
        stretch = self._attempt(made)
        self._move = self._next_move() if self._guarded.left else None
        if self._move is not None:
            self._guarded.set(self._move)
        return stretch

    def finish(self) -> None:
        """Leave the model at its best certified state (policy "constant": the last one).

        Raises:
            CannotCertify: If no state satisfied the constraints; `best` is the model, and `history`
                this controller's.
        """
        if self._stepping is not None:
            self._stepping.end()
            return
        try:
            self._guarded.hand_back(best=self._policy.keeps_best)
        except CannotCertify as error:
            error.history = self.history
            raise
        finally:
            self.history.mark(self._guarded.here)
        self.history.certificate = dict(self._guarded.certificate)

    def _attempt(self, move: Move) -> Stretch:
        before = self._guarded.spent
        try:
            stretch = self._guarded.attempt(move, 1)
        except DivergedError as error:
            error.best, error.history = self._loop.model, self.history
            raise
        tell_how_far(self._guarded, before)
        if stretch.committed:
            self._history.close([stretch], self._discarded, self._guarded.constraints)
            self._discarded = 0
        else:
            self._history.discarded.append(stretch)
            self._discarded += 1
        return stretch

    def _next_move(self) -> Move | None:
        return self._policy.decide(later(self._start, self._guarded, 1))


@final
class _Loop:
    """A trainer whose steps, one an epoch, were taken by somebody else: it tells the metrics."""

    steps_per_epoch = 1
    by_hand = True

    def __init__(self, state: State, metrics: Mapping[str, float]) -> None:
        self.metrics = metrics
        self.model, self._state = state.model, state
        self.snapshot, self.restore = state.snapshot, state.restore

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        return {"learning_rate": self._state.learning_rate}

    @property
    def finite(self) -> bool:
        return all_finite(self.model)

    def train(self, steps: int) -> Mapping[str, float]:
        return {**self.metrics, "steps": steps}

    def evaluate(self) -> Mapping[str, float]:
        return self.metrics

    def set(self, **hyperparameters: float) -> None:
        others = sorted(hyperparameters.keys() - {"learning_rate"})
        if others:
            raise InvalidInputError(
                f"a policy can move the learning rate of a loop written by hand, but not {others}"
            )
        self._state.set_rate(hyperparameters["learning_rate"])


def _checked(metrics: Mapping[str, float], monitor: str) -> dict[str, float]:
    """Metrics before training, of which the monitored one must be finite."""
    value = metrics.get(monitor, math.nan)
    if not math.isfinite(value):
        raise InvalidInputError(
            f"`before` must hold {monitor!r}, and it must be finite, but got {dict(metrics)}"
        )
    return dict(metrics)
