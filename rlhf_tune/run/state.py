"""What the policy of a training run sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_tune.run.stretch import Stretch


@dataclass(frozen=True)
class RunState:
    """What a policy knows when it decides.

    Attributes:
        learning_rate: The given one; after a range test, the rate it found.
        batch_size: With which it began; None where it cannot be changed.
        record: The stretches so far, discarded ones included.
        progress: Share of the budget spent in the middle of the stretch to come.
        batch_size_now: In effect.
        batch_size_limit: The largest allowed now; the one in effect within an epoch.
        usual_rate: The framework's default for the optimizer; None where it is not known.
        loss_before: The validation loss before training; NaN where it is not known.
    """

    learning_rate: float
    record: Sequence[Stretch]
    progress: float
    batch_size: int | None = None
    batch_size_now: int | None = None
    batch_size_limit: int | None = None
    usual_rate: float | None = None
    loss_before: float = math.nan


@dataclass(frozen=True)
class Probe:
    """A few steps of training from a snapshot at some rate, and the validation loss they led to."""

    learning_rate: float
    loss: float
