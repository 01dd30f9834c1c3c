"""A stretch of a training run: the move before it, the guard over it, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_tune.run.trainer import Metrics
from rlhf_tune.safety.measurement import Measurement

Verdict = Literal["committed", "diverged", "worse", "stalled", "violates", "out of memory"]


@dataclass(frozen=True)
class Move:
    """What is changed before a stretch.

    Attributes:
        name: What it is called in the record.
        hyperparameters: To be set, by name, as `Trainer.set` takes them; others stay as they are.
        factor: By which a policy's own moves have multiplied the rate so far; a note to itself.
    """

    name: str
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0


@dataclass(frozen=True)
class Guard:
    """How much worse than the best so far a stretch may end, and for how long.

    Attributes:
        ratio: Relative to the best value.
        slack: Beyond that, in units of the value before training (for a classifier's loss about
            the logarithm of the number of classes).
        patience: Share of the budget that may pass without a better value than the best, and with
            no lower training loss where that is reported.
        until: Share of the budget after which neither is asked for.
        spikes: Whether a network with normalisation statistics may end one stretch at a value that
            is not near enough, and only a second in succession is too many. At high rates such
            networks jump, and come back by themselves.
    """

    ratio: float = 0.25  # this and the next from a pilot on other tasks, not tuned since
    slack: float = 0.05
    patience: float = math.inf
    until: float = 1.0
    spikes: bool = False

    def allows(self, value: float, best: float, unit: float) -> bool:
        """Whether a value (lower is better) is near enough to the best."""
        return value <= best + self.ratio * abs(best) + self.slack * unit


@dataclass(frozen=True)
class Stretch:
    """One stretch of training, and what became of it.

    Attributes:
        move: What was changed before it.
        hyperparameters: In effect at its end, by name.
        steps: Optimizer steps taken.
        spent: Epochs of training charged to the budget so far, this stretch included.
        training: What the trainer reported of the steps.
        validation: Metrics afterwards; empty if the stretch diverged.
        value: The monitored metric, lower is better; inf if it diverged.
        measurements: Of the constraints, by name; empty if it was discarded before.
        drift: Of the constraints' costs over it, by name, where they were measured at both ends.
        verdict: "committed", or why it was discarded.
        factor: Of the move.
        spread: Standard deviation of the training loss over its batches; NaN where not reported.
    """

    move: str
    hyperparameters: Mapping[str, float]
    steps: int
    spent: float
    training: Metrics
    validation: Metrics = field(default_factory=dict)
    value: float = math.inf
    measurements: Mapping[str, Measurement] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    verdict: Verdict = "diverged"
    factor: float = 1.0
    spread: float = math.nan

    @classmethod
    def trained(
        cls, move: Move, training: Metrics, hyperparameters: Mapping[str, float], spent: float
    ) -> Stretch:
        """One that was trained, and not judged yet; what a trainer reported of it is `training`."""
        return cls(
            move=move.name,
            factor=move.factor,
            hyperparameters=hyperparameters,
            steps=int(training["steps"]),
            spent=spent,
            training={k: v for k, v in training.items() if k not in ("steps", "spread")},
            spread=training.get("spread", math.nan),
        )

    @property
    def learning_rate(self) -> float:
        """In effect at its end."""
        return self.hyperparameters["learning_rate"]

    @property
    def batch_size(self) -> int | None:
        """In effect; None where the trainer has none."""
        size = self.hyperparameters.get("batch_size")
        return None if size is None else int(size)

    @property
    def committed(self) -> bool:
        """Whether the run goes on from its end."""
        return self.verdict == "committed"

    @property
    def satisfied(self) -> bool:
        """Whether all constraints hold at its end."""
        return all(m.satisfied for m in self.measurements.values())


@dataclass(frozen=True)
class Checkpoint:
    """A committed state to go back to.

    Attributes:
        snapshot: The trainer's.
        value: The monitored metric there, lower is better.
        certified: Whether the constraints hold there; without any, they do.
        stretch: That ended there; None for the state before training.
    """

    snapshot: Any
    value: float
    certified: bool
    stretch: Stretch | None = None


def loss_of(training: Metrics) -> float:
    """The training loss; inf where it is not reported."""
    return training.get("loss", math.inf)


def progresses(record: Sequence[Stretch], since: float, loss: float) -> bool:
    """Whether the training loss has fallen of late.

    Args:
        record: The stretches before the one in hand.
        since: So many epochs were spent where "of late" begins.
        loss: Of the one in hand.
    """
    committed = [s for s in record if s.committed]
    before = [loss_of(s.training) for s in committed if s.spent <= since]
    after = [loss_of(s.training) for s in committed if s.spent > since]
    return not before or min([*after, loss]) < min(before)
