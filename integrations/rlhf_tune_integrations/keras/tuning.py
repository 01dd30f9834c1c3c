"""`fine_tune` for Keras."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import keras

from rlhf_tune.fine_tuning.driver import drive
from rlhf_tune.fine_tuning.groups import GroupsLike
from rlhf_tune.fine_tuning.policies import Agent
from rlhf_tune.fine_tuning.result import FineTuned
from rlhf_tune.run.mode import ModeName
from rlhf_tune.safety.measurement import Constraint
from rlhf_tune_integrations.keras.arguments import mode_by_keras
from rlhf_tune_integrations.keras.trainer import KerasTrainer


def fine_tune(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    validation_data: Any,
    groups: GroupsLike = "auto",
    budget: float = 3.0,
    epochs: float = 20.0,
    batch_size: int = 16,
    constraints: Sequence[Constraint] = (),
    monitor: str | None = None,
    mode: ModeName = "auto",
    policy: str | Agent = "default",
    verbose: int = 1,
    seed: int | None = None,
) -> FineTuned:
    """Fine-tune a trained model on little data, by groups of its layers.

    Which layers are trainable, and the compiled training step, are as before afterwards; there is
    no need to compile again.

    Args:
        model: Built and compiled; trained in place, at the learning rate of its optimizer.
        x: Inputs, as `model.fit` takes them.
        y: Targets.
        validation_data: A pair (x, y), by which everything is decided; not the data of a test.
        groups: "auto" (stem, blocks, head, all), a number of parts, names or patterns, or a mapping
            of names to patterns; `rlhf_tune.fine_tuning.describe_groups` shows them.
        budget: In full fine-tunings.
        epochs: Of one full fine-tuning.
        batch_size: Of training.
        constraints: What the model handed back must satisfy, such as `RobustAccuracy`.
        monitor: The validation metric; default "val_accuracy" where there is one, else "val_loss".
        mode: "min", "max" or "auto": whether less of it is better.
        policy: "default" and "search" (each group alone, all, and the head before all, at three
            rates around the given one; by validation the best third goes on, round by round),
            "dqn" (the Q-network that comes with the package, which learned to gain accuracy), or
            an agent.
        verbose: 0 shows no progress.
        seed: Of the order of arrays; drawn where not given.

    Raises:
        InvalidInputError: If an argument breaks its rule, or the model is not built.
        UnsupportedModelError: If the model cannot be driven, with the reason.
        CannotCertify: If no state satisfied the constraints; `best` is the model.
        DivergedError: If all training diverged; the message names the cause.
    """
    drawn = random.randrange(2**31) if seed is None else seed  # noqa: S311 - an order of data
    with closing(
        KerasTrainer(
            model, x, y, batch_size=batch_size, validation_data=validation_data, seed=drawn
        )
    ) as trainer:
        return drive(
            trainer,
            groups,
            epochs=epochs,
            budget=budget,
            constraints=constraints,
            policy=policy,
            monitor=monitor,
            mode="auto" if monitor is None else mode_by_keras(model, monitor, mode),
            verbose=verbose,
        )
