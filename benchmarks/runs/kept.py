"""Runs that were played, kept in a file, so that a command goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Run(NamedTuple):
    """Which run: the name of its task, its method, and the number of its seed."""

    task: str
    method: str
    seed: int


class Outcome(NamedTuple):
    """Of one run: loss and accuracy on held-out rows, and the stretches that were rolled back."""

    loss: float
    accuracy: float
    rolled_back: int


def read(file: Path | None) -> dict[Run, Outcome]:
    """What a file holds; nothing where there is none. Of a line that was cut short nothing is."""
    if file is None or not file.exists():
        return {}
    rows = [row for line in file.read_text().splitlines() if (row := _whole(line))]
    return {Run(*row["run"]): Outcome(*row["outcome"]) for row in rows}


def _whole(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def add(file: Path | None, run: Run, outcome: Outcome) -> None:
    """Append a run to a file, if there is one to append to."""
    if file is None:
        return
    with file.open("a") as lines:  # a new line first: the one before may have been cut short
        lines.write("\n" + json.dumps({"run": run, "outcome": outcome}))
