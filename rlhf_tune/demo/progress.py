"""What the demo shows while it runs: a line per trial, and on a terminal bars below them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from rich.console import Console
from rich.progress import Progress as Bars

from rlhf_tune.demo import report
from rlhf_tune.progress import bars


@contextmanager
def progress(console: Console, trials: int, done: int, epochs: int) -> Iterator[Progress]:
    """A bar of trials, of which `done` are done, and a bar of epochs."""
    with bars(console) as shown:
        yield Progress(shown, trials, done, epochs)


@final
class Progress:
    """To be told of trainings, their epochs and what became of them."""

    def __init__(self, shown: Bars, trials: int, done: int, epochs: int) -> None:
        self._bars, self._trials = shown, trials
        self._outer = shown.add_task("trials", total=trials, completed=done)
        self._inner = shown.add_task("epochs", total=epochs)

    def started(self, what: str, params: Mapping[str, Any]) -> None:
        """A training begins."""
        self._bars.update(self._inner, description=f"{what}: {report.named(params)}", completed=0)

    def epoch(self, done: int) -> None:
        """An epoch is over."""
        self._bars.update(self._inner, completed=done)

    def finished(self, row: Mapping[str, Any], best: Mapping[str, Any] | None) -> None:
        """A trial is over; `best` is the feasible one with the lowest loss so far."""
        lowest = "none feasible yet" if best is None else f"best feasible loss {best['loss']:.3f}"
        self._bars.advance(self._outer)
        self._bars.update(self._outer, description=lowest)
        line = f"trial {row['number']:>2}  {report.sentence(row)}; {lowest}"
        self._bars.console.print(line, soft_wrap=True, highlight=False, markup=False)
