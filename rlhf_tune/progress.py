"""Bars of what is under way: on a terminal, gone when it is over, and nothing anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")


def bars(
    console: Console | None = None, counted: str = "{task.completed:g}/{task.total:g}"
) -> Progress:
    """A context of bars, to which tasks can be added; the terminal is as before when it ends.

    Descriptions are plain text: names of files and trials are not read as markup.

    Args:
        console: Where they are shown; default the standard error.
        counted: How far a task is, as a format of its fields.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = console or Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn(counted, markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        transient=True,
        disable=console.quiet or not console.is_terminal,
    )


def track(steps: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Pass steps on under a bar; `total` is their number where they do not know it."""
    with bars() as shown:
        yield from shown.track(steps, total=total, description=what)
