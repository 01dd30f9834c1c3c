"""What a run was: its epochs, and what was discarded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rlhf_tune.run.state import Probe
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Measurement
from rlhf_tune.tabled import Tabled

if TYPE_CHECKING:
    from rlhf_tune.tables import Table


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
class History(Tabled):
    """What a run was; prints as a table of its epochs.

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
        bounds: What the constraints ask for, by name.
        spent: The epochs of the budget that were spent at the end of each committed one.
        returned: The number of the epoch in which the state handed back lies; None for the state
            before training, and while the run is under way.
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
    bounds: dict[str, float] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)
    returned: int | None = None

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
        self.spent.append(last.spent)
        for key, value in logs.items():
            self.history.setdefault(key, []).append(value)
        return epoch

    def mark(self, state: Stretch | None) -> None:
        """Note which state was handed back: the end of a stretch, or None before training."""
        after = math.inf if state is None else state.spent
        self.returned = next((i for i, at in enumerate(self.spent) if at >= after), None)

    def table(self) -> Table:
        """A row for each committed epoch."""
        return as_table(self)


class Recorded(Protocol):
    """What `fit` returns, of any framework: `history` by key, one entry per committed epoch."""

    history: dict[str, list[Any]]
    discarded: list[Stretch]
    certificate: dict[str, Measurement]
    returned: int | None


def as_table(run: Recorded) -> Table:
    """A row for each committed epoch, counted from 1 as while training."""
    from rlhf_tune.safety.shortfall import told  # few ask for a table
    from rlhf_tune.tables import Table

    columns = run.history
    epochs = range(1, 1 + max((len(column) for column in columns.values()), default=0))
    notes = [f"certified: {told(measured)}" for measured in run.certificate.values()]
    if run.returned is not None:
        notes.insert(0, f"the model handed back is that of epoch {run.returned + 1}")
    if run.discarded:
        notes.append(f"stretches that were rolled back: {len(run.discarded)}")
    rows = list(zip(epochs, *columns.values(), strict=False))
    return Table(("epoch", *columns), rows, notes=notes, shown=len(epochs))


def _mean(stretches: Sequence[Stretch]) -> dict[str, float]:
    """Training metrics over the stretches that report them; each is a mean over its steps."""
    means = {}
    for key in dict.fromkeys(key for s in stretches for key in s.training):
        told = [s for s in stretches if key in s.training]
        means[key] = sum(s.training[key] * s.steps for s in told) / sum(s.steps for s in told)
    return means
