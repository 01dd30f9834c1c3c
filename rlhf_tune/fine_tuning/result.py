"""What fine-tuning returns, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_tune.errors import require
from rlhf_tune.fine_tuning.policies import Episode
from rlhf_tune.fine_tuning.process import Tuned
from rlhf_tune.run.guarded import GuardedRun


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A fine-tuned model, and how it came to be.

    Attributes:
        model: At its best state, by validation.
        schedule: The decisions of the episode that led to it: group, operation, gain, epochs.
        costs: Of everything that was tried: "epochs"; "weighted", epochs times the share of the
            weights that were trained; "budget", the same in full fine-tunings; "switches".
        kept: How many decisions of the schedule the model has behind it; what came later did not
            improve it.
        tried: The best metric of each plan that was compared, by its name.
        monitor: The metric.
        start: Its value before.
        interrupted: Whether Ctrl-C ended it.
    """

    model: Any
    schedule: Sequence[Tuned]
    costs: Mapping[str, float]
    kept: int
    tried: Mapping[str, float]
    monitor: str
    start: float
    interrupted: bool = False

    def __str__(self) -> str:
        lines = [f"{self.monitor} {self.start:.4g} at first"]
        for number, each in enumerate(self.schedule, 1):
            gained = "" if each.epochs == 0 else f" ({each.gain:+.4g})"
            note = "" if number <= self.kept else ", not kept"
            why = "" if each.verdict in ("committed", each.operation) else f", {each.verdict}"
            lines.append(
                f"{number:2}. {each.operation} {each.group}: {each.metric:.4g}{gained}{why}{note}"
            )
        costs = ", ".join(f"{name} {value:.3g}" for name, value in self.costs.items())
        tried = ", ".join(f"{name} {value:.4g}" for name, value in self.tried.items())
        return "\n".join([*lines, f"costs: {costs}", *([f"compared: {tried}"] if tried else [])])

    def plot(self) -> Any:
        """Draw the metric after each decision, coloured by the group that was changed.

        Returns:
            A `matplotlib.figure.Figure`; `figure.savefig("tuned.png")` writes it.

        Raises:
            MissingExtraError: If matplotlib is not installed.
        """
        figures = require("matplotlib.figure", extra="plot")
        figure = figures.Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        groups = list(dict.fromkeys(each.group for each in self.schedule))
        metrics = [self.start, *(each.metric for each in self.schedule)]
        axes.plot(range(len(metrics)), metrics, color="0.6", zorder=1)
        for number, group in enumerate(groups):
            at = [i for i, each in enumerate(self.schedule, 1) if each.group == group]
            axes.scatter(at, [metrics[i] for i in at], color=f"C{number}", label=group, zorder=2)
        for i, each in enumerate(self.schedule, 1):
            axes.annotate(
                each.operation,
                (i, metrics[i]),
                xytext=(0, 6),
                textcoords="offset points",
                fontsize="x-small",
                rotation=45,
            )
        axes.axvline(self.kept, color="0.7", linestyle=":")
        axes.set(xlabel="decision (dotted: the model handed back)", ylabel=self.monitor)
        axes.legend(title="group", fontsize="small")
        return figure


def costs(episodes: Sequence[Episode], epochs: float) -> dict[str, float]:
    """Of all episodes; `epochs` is a full fine-tuning."""
    every = [tuned for episode in episodes for tuned in episode.record]
    weighted = sum(tuned.epochs * tuned.share for tuned in every)
    return {
        "epochs": sum(tuned.epochs for tuned in every),
        "weighted": weighted,
        "budget": weighted / epochs,
        "switches": float(sum(tuned.switched for tuned in every)),
    }


def kept(record: Sequence[Tuned], run: GuardedRun) -> int:
    """The decisions of an episode up to its best state."""
    best = run.best.stretch
    if best is None:
        return 0
    number = next(i for i, stretch in enumerate(run.record) if stretch is best)
    acted = [i for i, tuned in enumerate(record, 1) if not _idle(tuned)]
    return acted[number]


def _idle(tuned: Tuned) -> bool:
    return tuned.verdict in ("masked", tuned.operation)
