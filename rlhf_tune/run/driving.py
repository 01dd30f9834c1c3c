"""What the `fit` of every adapter does once it has a trainer: show, write down, drive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

from rich.console import Console

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.display import Display, display
from rlhf_tune.run.driver import Run
from rlhf_tune.run.history import History, OnEpoch
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.policies import RunPolicy, resolve
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint


class Keywords(TypedDict, total=False):
    """The fields of `Driving`, as keywords of a function."""

    constraints: Sequence[Constraint]
    monitor: str
    mode: ModeName
    policy: str | RunPolicy
    verify_every: int
    on_epoch: OnEpoch | Sequence[OnEpoch] | None
    checkpoint: str | Path | None
    verbose: int


@dataclass(frozen=True)
class Driving:
    """How a run is driven, whoever trains.

    Attributes:
        constraints: What the model handed back must satisfy, such as `RobustAccuracy`.
        monitor: The validation metric by which states are compared.
        mode: Whether less ("min") or more ("max") of it is better; "auto" knows accuracies.
        policy: "default", "dqn", "bold" or "constant" (see `rlhf_tune.run.policies`), or an agent:
            `RunPolicy.of(agent)`.
        verify_every: The constraints are measured after every so many stretches, and before the
            model is handed back.
        on_epoch: Told of each epoch once it is committed, as a `rlhf_tune.run.Epoch`: a function,
            or several. One that returns True ends the run.
        checkpoint: A folder in which the run is written after every stretch, and from which the
            same call goes on after a kill.
        verbose: 0 is silent, 1 shows a line per epoch and, on a terminal, progress.
    """

    constraints: Sequence[Constraint] = ()
    monitor: str = "val_loss"
    mode: ModeName = "auto"
    policy: str | RunPolicy = "default"
    verify_every: int = 1
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None
    checkpoint: str | Path | None = None
    verbose: int = 1

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for what can be known to be wrong before training."""
        resolve(self.policy)
        listeners(self.on_epoch)

    def drive(self, trainer: Trainer[Any], *, epochs: float, usual_rate: float) -> History:
        """Train to the end of the budget; see `rlhf_tune.run.Run`.

        Raises:
            InvalidInputError: If an argument breaks its rule.
            DivergedError: If nothing could be committed.
            CannotCertify: If no state satisfied the constraints; `best` is the model.
        """
        with display(epochs, self.monitor, Console(quiet=not self.verbose)) as shown:
            run = Run(
                trainer,
                epochs=epochs,
                policy=self.policy,
                constraints=self.constraints,
                monitor=self.monitor,
                mode=self.mode,
                usual_rate=usual_rate,
                on_stretch=shown.stretch,
                verify_every=self.verify_every,
            )
            return driven(run, listeners(self.on_epoch), shown, self.checkpoint)


def driven(
    run: Run,
    told: Sequence[OnEpoch],
    shown: Display,
    checkpoint: str | Path | None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> History:
    """The run to its end; where it is written, from where it was left.

    Args:
        run: Not begun.
        told: Of each epoch.
        shown: What the user sees of it.
        checkpoint: The folder, if it is written.
        about: Further arguments that must be the same where it goes on.
    """
    if checkpoint is not None:
        from rlhf_tune.run.checkpoints import attach  # most runs are not written

        if attach(run, checkpoint, about=about):
            shown.taken_up(run.history)
    history = run.drive(shown.epoch, *told)
    shown.end(history)
    return history


def listeners(given: Any) -> Sequence[OnEpoch]:
    """`on_epoch` as a list.

    Raises:
        InvalidInputError: If one cannot be called.
    """
    found = list(given) if isinstance(given, list | tuple) else [given] if given else []
    for listener in found:
        if not callable(listener):
            raise InvalidInputError(
                f"`on_epoch` must be a function of an epoch, or several, but got {listener!r}"
            )
    return found
