"""What a training run shows: a line per epoch, and on a terminal a bar below them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from rlhf_tune.errors import plain
from rlhf_tune.progress import bars
from rlhf_tune.run.history import Epoch, History
from rlhf_tune.run.stretch import Stretch
from rlhf_tune.safety.measurement import Measurement

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_HAPPENED = {
    "diverged": "diverged",
    "worse": "got much worse",
    "stalled": "got no better for long",
    "out of memory": "ran out of memory",
}


@contextmanager
def display(epochs: float, monitor: str, console: Console) -> Iterator[Display]:
    """What to tell of a run of so many epochs."""
    with bars(console, "{task.completed:.1f}/{task.total:g} epochs of budget") as shown:
        yield Display(shown, epochs, monitor)


@final
class Display:
    """To be told every stretch and every committed epoch."""

    def __init__(self, shown: Progress, epochs: float, monitor: str) -> None:
        self._bars, self._monitor, self._epochs = shown, monitor, epochs
        self._bar = shown.add_task("training", total=epochs)

    def stretch(self, stretch: Stretch) -> None:
        """A stretch is over; one that was rolled back is told."""
        over = stretch.spent >= self._epochs and bool(stretch.measurements)
        doing = "certifying" if over else "training"  # by the whole ladder: that takes a while
        self._bars.update(self._bar, completed=stretch.spent, description=doing)
        if not stretch.committed:
            self._print(f"  rolled back: {reason(stretch)}")

    def taken_up(self, history: History) -> None:
        """The run goes on from a checkpoint."""
        self._print(taken_up(history))

    def end(self, history: History) -> None:
        """The run is over."""
        if took := verified(history):
            self._print(took)

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is committed."""
        logs = epoch.logs
        parts = [f"epoch {epoch.number + 1:>3}"]
        parts += [f"{key} {logs[key]:.4g}" for key in ("loss", self._monitor) if key in logs]
        parts += [f"rate {logs['learning_rate']:.2g}"]
        parts += [f"batch {logs['batch_size']}"] if "batch_size" in logs else []
        parts += [f"{plain(name)} {weight:.2g}" for name, weight in epoch.knobs.items()]
        parts += [str(logs["move"])] if logs["move"] != "stay" else []
        parts += [_kept(measurement) for measurement in epoch.measurements.values()]
        self._print("  ".join(parts))

    def _print(self, line: str) -> None:
        self._bars.console.print(line, soft_wrap=True, highlight=False, markup=False)


def taken_up(history: History) -> str:
    """From where a run goes on."""
    return f"taken up from its checkpoint, after {len(history.epoch)} epochs"


def verified(history: History) -> str:
    """What certified the model, and what verification took; nothing without constraints."""
    parts = [_kept(measurement) for measurement in history.certificate.values()]
    certified = [f"certified: {', '.join(parts)}"] if parts else []
    share = history.verification
    took = [f"verification of the constraints took {share:.0%} of the time"] if share else []
    return "; ".join([*certified, *took])


def _kept(measurement: Measurement) -> str:
    return f"{plain(measurement.name)} {measurement.value:.3g} ({_margin(measurement)})"


def _margin(measurement: Measurement) -> str:
    if not measurement.trusted:
        return "not trusted"
    return f"{'kept by' if measurement.satisfied else 'missed by'} {abs(measurement.cost):.3g}"


def reason(stretch: Stretch) -> str:
    """Why a stretch was rolled back."""
    at = f"at rate {stretch.learning_rate:.2g}"
    if stretch.verdict == "violates":
        broken = (m for m in stretch.measurements.values() if not m.satisfied)
        return f"{at} " + ", ".join(
            f"{plain(m.name)} was {m.value:.3g} ({_margin(m)})" for m in broken
        )
    return f"{at} the run {_HAPPENED[stretch.verdict]}"
