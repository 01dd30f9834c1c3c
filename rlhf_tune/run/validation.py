"""What the validation metrics say of a state of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, final

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.metrics import as_metrics
from rlhf_tune.run.mode import ModeName, mode_of
from rlhf_tune.run.trainer import Metrics

_LOGGED = ("loss", "move", "rolled_back")  # further keys of the history


class Seen(NamedTuple):
    """What a state looks like: all metrics, and the monitored value, lower is better."""

    metrics: Metrics
    value: float
    refreshed: bool = False  # normalisation statistics were made anew for it


@final
class Validation:
    """Evaluates a trainer, and compares its states by the monitored metric.

    Attributes:
        start: The metrics before training.
    """

    def __init__(self, trainer: Any, monitor: str, mode: ModeName) -> None:
        """Evaluate the trainer as it is.

        Raises:
            InvalidInputError: If it does not report the metric, or the mode is none.
        """
        self._trainer, self._monitor = trainer, monitor
        self.start = as_metrics(trainer.evaluate())
        self._check(self.start)
        self._sign = -1.0 if mode_of(monitor, mode) == "max" else 1.0

    def value(self, metrics: Metrics) -> float:
        """The monitored one, lower is better."""
        self._check(metrics)
        return self._sign * metrics[self._monitor]

    def seen(self, training: Metrics, fine: Callable[[float], bool]) -> Seen | None:
        """The state in hand; None if something is not finite.

        Args:
            training: What the trainer reported of the steps that led there.
            fine: Whether a value can stand; else statistics are made anew, and it is asked again.
        """
        seen = self._evaluated(training)
        if seen is not None and fine(seen.value):
            return seen
        fresh = getattr(self._trainer, "refresh", lambda: False)()
        return self._evaluated(training, refreshed=True) if fresh else seen

    def _evaluated(self, training: Metrics, *, refreshed: bool = False) -> Seen | None:
        if not math.isfinite(training.get("loss", 0.0)):
            return None
        validation = as_metrics(self._trainer.evaluate())
        value = self.value(validation)
        finite = math.isfinite(value) and math.isfinite(validation.get("val_loss", 0.0))
        fine = finite and getattr(self._trainer, "finite", True)
        return Seen(validation, value, refreshed) if fine else None

    def _check(self, metrics: Metrics) -> None:
        if self._monitor not in metrics:
            raise InvalidInputError(
                f"`monitor` must be one of {sorted(metrics)}, but got {self._monitor!r}"
            )


def check_names(constraints: Iterable[str], others: Iterable[str], metrics: Metrics) -> None:
    """Raise `InvalidInputError` if a constraint has the name of something else in the history.

    Args:
        constraints: Their names.
        others: Those of the hyperparameters.
        metrics: Of the validation.
    """
    trained = {name.removeprefix("val_") for name in metrics}
    twice = sorted({*_LOGGED, *others, *metrics, *trained} & {*constraints})
    if twice:
        raise InvalidInputError(
            f"constraints must not have the names of metrics, but got {twice}; "
            f"give each a name of its own: name='...'"
        )
