"""What the demo shows while it runs: a line per trial, and on a terminal bars below them."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, final

from rich.console import Console

from rlhf_tune.demo import report
from rlhf_tune.progress import bars


@final
class Progress:
    """A context with a bar of trials, of which `done` are done, and a bar of epochs."""

    def __init__(self, console: Console, trials: int, done: int, epochs: int) -> None:
        self._console = console
        self._trials = trials
        self._bars = bars(console)
        self._outer = self._bars.add_task("trials", total=trials, completed=done)
        self._inner = self._bars.add_task("epochs", total=epochs)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

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
        line = f"trial {row['number'] + 1:>2}/{self._trials}  {report.sentence(row)}; {lowest}"
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
