"""`fine_tune` for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning.driver import drive
from rlhf_tune.fine_tuning.groups import GroupsLike
from rlhf_tune.fine_tuning.policies import Agent
from rlhf_tune.fine_tuning.result import FineTuned
from rlhf_tune.run.mode import ModeName
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.pytorch.batches import Data
from rlhf_tune_integrations.pytorch.scoring import Loss, Metric
from rlhf_tune_integrations.pytorch.trainer import TorchTrainer


def fine_tune(
    model: torch.nn.Module,
    x: Any,
    y: Any,
    *,
    validation_data: Data,
    loss_fn: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    groups: GroupsLike = "auto",
    budget: float = 3.0,
    epochs: float = 20.0,
    batch_size: int = 16,
    metrics: Sequence[Metric | Callable[..., Any]] | None = None,
    constraints: Sequence[Constraint] = (),
    monitor: str | None = None,
    mode: ModeName = "auto",
    policy: str | Agent = "default",
    verbose: int = 1,
    seed: int | None = None,
) -> FineTuned:
    """Fine-tune a trained model on little data, by groups of its layers.

    Modes, `requires_grad` and what was frozen are as before afterwards.

    Args:
        model: Trained in place, on the device where it is.
        x: Inputs [n, ...].
        y: Targets [n, ...].
        validation_data: A pair (x, y), by which everything is decided; not the data of a test.
        loss_fn: The mean loss; default cross-entropy of scores [B, C].
        optimizer: Over the parameters, at the learning rate of "tune"; default Adam at 1e-3.
        groups: "auto" (stem, blocks, head, all), a number of parts, names or patterns, or a mapping
            of names to patterns; `rlhf_tune.fine_tuning.describe_groups` shows them.
        budget: In full fine-tunings.
        epochs: Of one full fine-tuning.
        batch_size: Of training.
        metrics: As `fit` takes them; default "accuracy" with the default loss.
        constraints: What the model handed back must satisfy, such as `RobustAccuracy`.
        monitor: The validation metric; default "val_accuracy" where there is one, else "val_loss".
        mode: Whether less of it is better.
        policy: "default" and "search" (each group alone, all, and the head before all, at three
            rates around the given one; by validation the best third goes on, round by round),
            "dqn" (the Q-network that comes with the package, which learned to gain accuracy), or
            an agent.
        verbose: 0 shows no progress.
        seed: Of the order of the data.

    Raises:
        InvalidInputError: If an argument breaks its rule.
        UnsupportedModelError: If nothing of the model can be trained.
        CannotCertify: If no state satisfied the constraints; `best` is the model.
        DivergedError: If all training diverged; the message names the cause.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InvalidInputError(
            "the model must have parameters that are trained, but all are frozen or there is none; "
            "set requires_grad of some"
        )
    if metrics is None:
        metrics = ("accuracy",) if loss_fn is None else ()
    trainer = TorchTrainer(
        model,
        optimizer or torch.optim.Adam(trained, 1e-3),
        loss_fn or torch.nn.functional.cross_entropy,
        (x, y),
        validation_data,
        batch_size=batch_size,
        metrics=metrics,
        seed=seed,
    )
    return drive(
        trainer,
        groups,
        epochs=epochs,
        budget=budget,
        constraints=constraints,
        policy=policy,
        monitor=monitor,
        mode=mode,
        verbose=verbose,
    )
