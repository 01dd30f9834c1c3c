"""What an environment asks of a training run: train a stretch, evaluate, set, snapshot, restore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

Metrics = Mapping[str, float]
Snapshot = TypeVar("Snapshot")


class Trainer(Protocol[Snapshot]):
    """A training run that can be driven in stretches.

    A step is one optimizer step on one batch, so a stretch may be part of an epoch or span
    several. Where the trainer owns the order of the data, every sample is seen once per epoch at
    every batch size, and a restored snapshot replays bit for bit.
    `rlhf_tune.testing.TrainerContract` checks all of this for any implementation.

    Attributes:
        model: What is trained, as its framework knows it; constraints measure it.
    """

    model: Any

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The values in effect for the next step, read back from where the framework keeps them.

        At least "learning_rate"; "batch_size" where it can be changed.
        """
        ...

    def train(self, steps: int) -> Metrics:
        """Take optimizer steps; returns "loss", the mean training loss over their samples.

        Stops early at a loss that is not finite, which it returns.
        """
        ...

    def evaluate(self) -> Metrics:
        """Metrics on the validation data, such as "val_loss"; changes nothing."""
        ...

    def set(self, **hyperparameters: float) -> None:
        """Change hyperparameters from the next step on.

        Raises:
            InvalidInputError: If a name is unknown or a value is not allowed.
        """
        ...

    def snapshot(self) -> Snapshot:
        """The whole state of the run, in memory.

        Weights, optimizer state, statistics of normalisation layers, random streams, the place in
        the data, and the hyperparameters.
        """
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, which stays usable. It brings back its hyperparameters too."""
        ...
