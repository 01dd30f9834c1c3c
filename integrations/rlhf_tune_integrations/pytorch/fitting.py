"""`fit` for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.display import display
from rlhf_tune.run.driver import Run, budget, reach_of
from rlhf_tune.run.driving import driven, listeners
from rlhf_tune.run.history import History, OnEpoch
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.policies import RunPolicy
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch.batches import Data
from rlhf_tune_integrations.pytorch.optimizers import usual_rate
from rlhf_tune_integrations.pytorch.scoring import Loss, Metric
from rlhf_tune_integrations.pytorch.state import Stateful
from rlhf_tune_integrations.pytorch.trainer import Step, TorchTrainer


def fit(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss,
    train_data: Data,
    validation_data: Data | Callable[[], Mapping[str, float]],
    *,
    epochs: float | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    metrics: Sequence[Metric] = (),
    constraints: Sequence[Constraint] = (),
    monitor: str = "val_loss",
    mode: ModeName = "auto",
    scheduler: Any = None,
    train_step: Step | None = None,
    state: Sequence[Stateful] = (),
    policy: str | RunPolicy = "default",
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    checkpoint: str | Path | None = None,
    verify_every: int = 1,
    reach: bool = False,
    groups: Any = None,
    verbose: int = 1,
    seed: int | None = None,
) -> History:
    """Train a model while a policy moves the learning rate, verified or rolled back.

    Ctrl-C ends the training early: the model is then at its best certified state, and the history
    says `interrupted`.

    Args:
        model: Trained in place; see `TorchTrainer` for this and the arguments not named here.
        optimizer: Its learning rate is where "bold" and "constant" begin; "default" looks for one,
            and tries this one first where the model was trained before.
        loss_fn: The mean loss of outputs and targets.
        train_data: A pair (x, y), a dataset or a DataLoader.
        validation_data: The same, or a function that returns metrics.
        epochs: The budget in passes over the data; range tests and what is rolled back count.
        steps: The budget in optimizer steps at the first batch size, in place of `epochs`.
        steps_per_epoch: The length of an epoch of a stream (`IterableDataset`), and only of one.
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
        on_epoch: Told of each epoch once it is committed, as a `rlhf_tune.run.Epoch`: a function,
            or several. One that returns True ends the run as if the budget were spent; what it
            raises, such as `optuna.TrialPruned`, ends it with the best state in the model.
        checkpoint: A folder in which the run is written after every stretch. The same call goes
            on from there after a kill, and returns at once where the run is over; without the
            folder it begins anew.
        verify_every: The constraints are measured after every so many stretches, and before the
            model is handed back.
        reach: Whether to train against bounds that are missed: each constraint's remedy is a term
            of the loss whose weight the run moves, as `adversarial_weight`, a key of the history.
            `train_step` is then called with (batch, term), and adds term(x, y, outputs) to its
            loss. Half of the constraints' samples steer, half certify.
        groups: The group of each training sample, an array [N] or several by name, where
            `GroupFairness` is reached for: its weight is `fair_weight`.
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
        steps_per_epoch=steps_per_epoch,
        metrics=metrics,
        scheduler=scheduler,
        train_step=train_step,
        state=state,
        remedies=reaching.remedies.values() if reaching else (),
        groups=groups,
        seed=seed,
    )
    _check_owner(scheduler, policy)
    total = budget(epochs, steps, trainer.steps_per_epoch)
    with display(total, monitor, Console(quiet=not verbose)) as shown:
        run = Run(
            trainer,
            epochs=total,
            policy=policy,
            constraints=constraints,
            monitor=monitor,
            mode=mode,
            usual_rate=usual_rate(optimizer),
            on_stretch=shown.stretch,
            verify_every=verify_every,
            reach=reaching,
        )
        return driven(run, listeners(on_epoch), shown, checkpoint, {"seed": seed})


def _check_owner(scheduler: Any, policy: str | RunPolicy) -> None:
    if scheduler is not None and policy != "constant":
        raise InvalidInputError(
            f"the learning rate must have one owner, but policy={policy!r} and "
            f"{type(scheduler).__name__} both set it; leave one out: the policy decays the rate "
            f"by itself, and policy='constant' leaves it to the scheduler"
        )
