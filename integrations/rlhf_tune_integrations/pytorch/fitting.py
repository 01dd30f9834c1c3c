"""`fit` for PyTorch, and a controller for loops written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from rich.console import Console

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.display import display
from rlhf_tune.run.driver import History, ModeName, Run, mode_of, reach_of
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.state import begin, later
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch.batches import Data
from rlhf_tune_integrations.pytorch.state import State, Stateful
from rlhf_tune_integrations.pytorch.trainer import Loss, Metric, Step, TorchTrainer, usual_rate


def fit(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss,
    train_data: Data,
    validation_data: Data | Callable[[], Mapping[str, float]],
    *,
    epochs: float,
    batch_size: int | None = None,
    metrics: Sequence[Metric] = (),
    constraints: Sequence[Constraint] = (),
    monitor: str = "val_loss",
    mode: ModeName = "auto",
    scheduler: Any = None,
    train_step: Step | None = None,
    state: Sequence[Stateful] = (),
    policy: str | RunPolicy = "default",
    reach: bool = False,
    verbose: int = 1,
    seed: int | None = None,
) -> History:
    """Train a model while a policy moves the learning rate, verified or rolled back.

    Ctrl-C ends the training early: the model is then at its best certified state, and the history
    says `interrupted`.

    Args:
        model: Trained in place; see `TorchTrainer` for this and the arguments not named here.
        optimizer: Its learning rate is where "bold" and "constant" begin; "default" looks for one.
        loss_fn: The mean loss of outputs and targets.
        train_data: A pair (x, y), a dataset or a DataLoader.
        validation_data: The same, or a function that returns metrics.
        epochs: The budget in passes over the data; range tests and what is rolled back count.
        batch_size: To begin with; default 32, or the DataLoader's.
        metrics: "accuracy" or functions of outputs and targets.
        constraints: What the model handed back must satisfy, such as `RobustAccuracy`.
        monitor: The validation metric by which states are compared.
        mode: Whether less ("min") or more ("max") of it is better; "auto" knows accuracies.
        scheduler: Owns the learning rate; only with policy="constant".
        train_step: Makes a step on a batch and returns the loss.
        state: Further objects that training changes, such as a GradScaler.
        policy: "default", "dqn", "grow", "bold" or "constant" (see `rlhf_tune.run.policies`), or
            an agent: `RunPolicy.of(agent)`.
        reach: Whether to train against bounds that are missed: each constraint's remedy is a term
            of the loss whose weight the run moves, as `adversarial_weight`, a key of the history.
            `train_step` is then called with (batch, term), and adds term(x, y, outputs) to its
            loss. Half of the constraints' samples steer, half certify.
        verbose: 0 is silent, 1 shows a line per epoch and, on a terminal, progress.
        seed: Of the order of the data.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        CannotCertify: If no state satisfied the constraints; `best` is the model.
    """
    reaching = reach_of(constraints) if reach else None
    trainer = TorchTrainer(
        model,
        optimizer,
        loss_fn,
        train_data,
        validation_data,
        batch_size=batch_size,
        metrics=metrics,
        scheduler=scheduler,
        train_step=train_step,
        state=state,
        remedies=tuple(reaching.remedies.values()) if reaching else (),
        seed=seed,
    )
    if scheduler is not None and policy != "constant":
        raise InvalidInputError(
            f"the learning rate must have one owner, but policy={policy!r} and "
            f"{type(scheduler).__name__} both set it; leave one out: the policy decays the rate "
            f"by itself, and policy='constant' leaves it to the scheduler"
        )
    with display(epochs, monitor, Console(quiet=not verbose)) as shown:
        run = Run(
            trainer,
            epochs=epochs,
            policy=policy,
            constraints=constraints,
            monitor=monitor,
            mode=mode_of(monitor, mode),
            usual_rate=usual_rate(optimizer),
            on_stretch=shown.stretch,
            reach=reaching,
        )
        return run.drive(shown.epoch)


@final
class Controller:
    """Moves the learning rate of a loop written by hand, and rolls back what went wrong.

        controller = Controller(model, optimizer, epochs=20)
        while controller.running:
            train_one_epoch(model, optimizer)
            controller.after_epoch({"val_loss": validate(model)})
        controller.finish()

    It decides as `fit` does, except that the rate that it warms up to is the one that the optimizer
    has when the controller is made: a range test would have to train. What is rolled back are the
    model, the optimizer, `state` and the random streams; the order of the data is the loop's.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        epochs: int,
        constraints: Sequence[Constraint] = (),
        monitor: str = "val_loss",
        mode: ModeName = "auto",
        state: Sequence[Stateful] = (),
        policy: str | RunPolicy = "default",
    ) -> None:
        """Remember the state as it is; see `fit` for the arguments."""
        self._policy, mode = resolve(policy), mode_of(monitor, mode)
        unknown = {monitor: math.inf if mode == "min" else -math.inf}
        self._loop = _Loop(State(model, optimizer, state), unknown)
        self._guarded = GuardedRun(
            self._loop,
            epochs=epochs,
            constraints=constraints,
            monitor=monitor,
            mode=mode,
            guard=self._policy.guard,
        )
        self._start = begin(self._guarded)
        self._move = self._next_move()
        if self._move is not None:
            self._guarded.set(self._move)

    @property
    def record(self) -> Sequence[Stretch]:
        """What became of each epoch."""
        return self._guarded.record

    @property
    def running(self) -> bool:
        """Whether another epoch is left and makes sense."""
        return self._move is not None

    def after_epoch(self, metrics: Mapping[str, float]) -> Stretch:
        """Commit an epoch or roll it back, and set the rate of the next one.

        Args:
            metrics: The monitored one among them; "loss" is watched for divergence and progress.

        Raises:
            InvalidInputError: If the monitored metric is missing, or the budget is used up.
        """
        if self._move is None:
            raise InvalidInputError("an epoch must be left, but the run is over; see `running`")
        self._loop.metrics = as_metrics(metrics)
        made = Move(self._move.name, factor=self._move.factor)  # its rate is set already
        stretch = self._guarded.attempt(made, 1)
        self._move = self._next_move() if self._guarded.left else None
        if self._move is not None:
            self._guarded.set(self._move)
        return stretch

    def finish(self) -> None:
        """Leave the model at its best certified state (policy "constant": the last one).

        Raises:
            CannotCertify: If no state satisfied the constraints; `best` is the model.
        """
        self._guarded.hand_back(best=self._policy.keeps_best)

    def _next_move(self) -> Move | None:
        return self._policy.decide(later(self._start, self._guarded, 1))


@final
class _Loop:
    """A trainer whose steps, one an epoch, were taken by somebody else: it tells the metrics."""

    steps_per_epoch = 1

    def __init__(self, state: State, metrics: Mapping[str, float]) -> None:
        self.metrics = metrics
        self.model, self._state = state.model, state
        self.snapshot, self.restore = state.snapshot, state.restore

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        return {"learning_rate": self._state.learning_rate}

    def train(self, steps: int) -> Mapping[str, float]:
        return {**self.metrics, "steps": steps}

    def evaluate(self) -> Mapping[str, float]:
        return self.metrics

    def set(self, **hyperparameters: float) -> None:
        self._state.set_rate(hyperparameters["learning_rate"])
