"""What a run was: its epochs, and what was discarded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_tune.run.state import Probe
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Measurement


@dataclass(frozen=True)
class Epoch:
    """An epoch that was committed.

    Attributes:
        number: From 0.
        logs: Training and validation metrics, the hyperparameters in effect ("learning_rate",
            "batch_size" where there is one, and further ones of the trainer), "move",
            "rolled_back" (the stretches discarded since the last committed epoch), and the
            measured value of each constraint under its name.
        measurements: Of the constraints at its end, by name.
        knobs: Weights of remedies in effect, by name.
    """

    number: int
    logs: dict[str, float | str]
    measurements: dict[str, Measurement]
    knobs: dict[str, float] = field(default_factory=dict)


OnEpoch = Callable[[Epoch], object]
"""Told of an epoch once it is committed; if it returns True, the run ends there."""


@dataclass
class History:
    """What a run was.

    Attributes:
        history: A list by key of `Epoch.logs`, one entry per committed epoch.
        epoch: Their numbers.
        discarded: The stretches that were rolled back; they were charged to the budget.
        out_of_memory: Batch sizes at which memory ran out: these and larger ones were left.
        range_test: The rates that were probed before the run began.
        interrupted: Whether the user broke it off.
        verification: The share of the run's time in which its constraints were measured.
        knobs: The keys that are weights of remedies, under `reach=True`.
        certificate: The measurements that certified the model handed back, by name.
    """

    history: dict[str, list[Any]] = field(default_factory=dict)
    epoch: list[int] = field(default_factory=list)
    discarded: list[Stretch] = field(default_factory=list)
    out_of_memory: list[int] = field(default_factory=list)
    range_test: list[Probe] = field(default_factory=list)
    interrupted: bool = False
    verification: float = 0.0
    knobs: tuple[str, ...] = ()
    certificate: dict[str, Measurement] = field(default_factory=dict)

    def close(
        self, stretches: Sequence[Stretch], rolled_back: int, constraints: Iterable[str]
    ) -> Epoch:
        """Add an epoch.

        Args:
            stretches: The committed ones that it is made of.
            rolled_back: How many were discarded since the epoch before.
            constraints: Their names; of one that was not measured the log is NaN.
        """
        last = stretches[-1]
        logs: dict[str, float | str] = {
            **_mean(stretches),
            **last.validation,
            **last.hyperparameters,
            "move": next((s.move for s in reversed(stretches) if s.move != "stay"), "stay"),
            "rolled_back": rolled_back,
            **dict.fromkeys(constraints, math.nan),
            **{name: m.value for name, m in last.measurements.items()},
        }
        knobs = {name: last.hyperparameters[name] for name in self.knobs}
        epoch = Epoch(len(self.epoch), logs, dict(last.measurements), knobs)
        self.epoch.append(epoch.number)
        for key, value in logs.items():
            self.history.setdefault(key, []).append(value)
        return epoch


def _mean(stretches: Sequence[Stretch]) -> dict[str, float]:
    """Training metrics over all stretches; each is a mean over its steps."""
    total = sum(s.steps for s in stretches)
    return {
        key: sum(s.training[key] * s.steps for s in stretches) / total
        for key in stretches[-1].training
    }
