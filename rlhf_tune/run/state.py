"""What the policy of a training run sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.stretch import Stretch

_FEWEST_STEPS = 8  # of an epoch, at the largest batch


@dataclass(frozen=True)
class RunState:
    """What a policy knows when it decides.

    Attributes:
        learning_rate: The given one; after a range test, the rate it found.
        record: The stretches so far, discarded ones included.
        progress: Share of the budget spent in the middle of the stretch to come.
        now: The hyperparameters in effect, by name.
        batch_size: With which it began; None where it cannot be changed.
        batch_sizes: The smallest and the largest allowed now; within an epoch both are the one in
            effect. None where it cannot be changed.
        usual_rate: The framework's default for the optimizer; None where it is not known.
        loss_before: The validation loss before training; NaN where it is not known.
        constraints: Their names.
        here: The stretch that ended at the state in hand; None for the state before training.
        best: The one that ended at the best state, to which a rollback goes.
        certified: Whether that state satisfies the constraints.
    """

    learning_rate: float
    record: Sequence[Stretch]
    progress: float
    now: Mapping[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    batch_sizes: tuple[int, int] | None = None
    usual_rate: float | None = None
    loss_before: float = math.nan
    constraints: Sequence[str] = ()
    here: Stretch | None = None
    best: Stretch | None = None
    certified: bool = True

    @property
    def batch_size_now(self) -> int | None:
        """In effect; None where it cannot be changed."""
        return int(self.now["batch_size"]) if "batch_size" in self.now else None

    @property
    def batch_size_limit(self) -> int | None:
        """The largest allowed now; the one in effect within an epoch."""
        return None if self.batch_sizes is None else self.batch_sizes[1]


@dataclass(frozen=True)
class Probe:
    """A few steps of training from a snapshot at some rate, and the validation loss they led to."""

    learning_rate: float
    loss: float


def begin(
    run: GuardedRun,
    *,
    learning_rate: float | None = None,
    usual_rate: float | None = None,
    batch_sizes: tuple[int, int] | None = None,
) -> RunState:
    """What is known before the first stretch of a run.

    Args:
        run: At its beginning.
        learning_rate: That a range test found; default the one in effect.
        usual_rate: The framework's default for the optimizer, if known.
        batch_sizes: The smallest and the largest ever; default 1 and `largest_batch`.
    """
    now = run.hyperparameters
    size = int(now["batch_size"]) if "batch_size" in now else None
    if size is not None and batch_sizes is None:
        batch_sizes = 1, largest_batch(size, run.steps_per_epoch)
    return RunState(
        learning_rate=now["learning_rate"] if learning_rate is None else learning_rate,
        record=run.record,
        progress=0.0,
        now=now,
        batch_size=size,
        batch_sizes=None if size is None else batch_sizes,
        usual_rate=usual_rate,
        loss_before=run.validation.get("val_loss", math.nan),
        constraints=run.constraints,
        certified=run.best.certified,
    )


def later(start: RunState, run: GuardedRun, steps: int, *, resizes: bool = True) -> RunState:
    """What is known before some stretch.

    Args:
        start: What was known at the beginning.
        run: As it stands.
        steps: Of the stretch to come, at the batch size in effect.
        resizes: Whether the batch size may change now.
    """
    middle = run.spent + steps / run.steps_per_epoch / 2
    state = replace(
        start,
        progress=middle / run.epochs,
        now=run.hyperparameters,
        here=run.here,
        best=run.best.stretch,
        certified=run.best.certified,
    )
    size, ever = state.batch_size_now, start.batch_sizes
    if size is None or ever is None:
        return state
    # Growth leaves a step of the budget.
    largest = max(size, min(ever[1], size * run.left, run.memory.largest))
    return replace(state, batch_sizes=(ever[0], int(largest)) if resizes else (size, size))


def largest_batch(size: int, steps_per_epoch: int) -> int:
    """The size to which a batch may grow, so that an epoch keeps some steps."""
    return size * max(1, steps_per_epoch // _FEWEST_STEPS)
