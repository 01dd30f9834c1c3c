"""What an environment asks of a training run: train a stretch, evaluate, set, snapshot, restore."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from rlhf_tune.errors import InvalidInputError

Metrics = Mapping[str, float]
Snapshot = TypeVar("Snapshot")


class Trainer(Protocol[Snapshot]):
    """A training run that can be driven in stretches.

    A step is one optimizer step on one batch, so a stretch may be part of an epoch or span
    several. Where the trainer owns the order of the data, every sample is seen once per epoch at
    every batch size, and a restored snapshot replays bit for bit.
    `rlhf_tune.testing.TrainerContract` checks all of this for any implementation.

    A run whose state is to be written (`rlhf_tune.run.Run.state_dict`) needs three names more, as
    only the trainer knows what is in its snapshots:

    - `identity`: A mapping of names to numbers, texts and lists: what must be the same where a
      snapshot is taken up again, such as the shapes of the weights, the kind of optimizer,
      and the number of samples.
    - `saved(snapshot)`: It as plain values: numbers, texts, None, NumPy arrays, and lists, tuples
      and mappings of them. They share no memory with it.
    - `loaded(values)`: A snapshot, from what `saved` returned, in this process or another.

    A trainer may have more, which is used where it is there: `finite` (whether all weights are),
    `data_fault()` and `validation_fault()` (where data or loss are not finite, as a sentence; None
    where nothing was seen), `only_looking()` (a context in which measuring leaves no trace),
    `scheduled` (whether the rate moves by itself).
    """

    @property
    def model(self) -> Any:
        """What is trained, as its framework knows it; constraints measure it."""
        ...

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The values in effect for the next step, read back from where the framework keeps them.

        At least "learning_rate"; "batch_size" where it can be changed.
        """
        ...

    @property
    def steps_per_epoch(self) -> int:
        """The steps of a whole epoch at the batch size in effect."""
        ...

    def train(self, steps: int) -> Metrics:
        """Take optimizer steps.

        Returns "steps", the number taken, and "loss", the mean training loss over their samples;
        where it is cheap "spread", the standard deviation of the loss over the batches; other
        training metrics as the framework names them. Stops early, without raising, at a
        loss that is not finite, which is then the loss returned.
        """
        ...

    def evaluate(self) -> Metrics:
        """Metrics on the validation data, "val_loss" among them; changes nothing."""
        ...

    def set(self, **hyperparameters: float) -> None:
        """Change hyperparameters from the next step on; in the middle of an epoch too.

        Raises:
            InvalidInputError: If a name is unknown or a value is not allowed; nothing is changed.
        """
        ...

    def snapshot(self, into: Snapshot | None = None) -> Snapshot:
        """The whole state of the run, in memory.

        Weights, optimizer state, statistics of normalisation layers, random streams, the place in
        the data, and the hyperparameters.

        Args:
            into: A snapshot of this trainer that is needed no longer; its memory is used again.
        """
        ...

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot, which stays usable. It brings back its hyperparameters too."""
        ...


def saving(trainer: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The functions by which a trainer's snapshots become plain values, and come back.

    Raises:
        InvalidInputError: If it has none.
    """
    if not all(hasattr(trainer, name) for name in ("identity", "saved", "loaded")):
        raise InvalidInputError(
            f"a trainer must have `identity`, `saved` and `loaded` for its run to be written, but "
            f"{type(trainer).__name__} has not all of them; see rlhf_tune.run.trainer.Trainer"
        )
    return trainer.saved, trainer.loaded
