"""Record the demo's task: every setting of a grid, trained and measured once.

`python -m rlhf_tune.demo.record` writes `recorded.json`, which `replay` plays other samplers on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rlhf_tune import files
from rlhf_tune.demo.experiment import BATCH_SIZES, LEARNING_RATES, Experiment, one_thread
from rlhf_tune.demo.replay import FILE, same_task
from rlhf_tune.demo.settings import Settings
from rlhf_tune.progress import track

_RATES_A_DECADE = 3
_FIRST = 2**20  # trainings of the table share no seed with the trials of a run


def main() -> None:
    """Train and measure the grid with both frameworks, and write the table."""
    tables = {}
    for framework in ("torch", "keras"):
        settings = Settings(framework=framework)
        with one_thread():
            tables[framework] = {"task": same_task(settings), "cells": list(_cells(settings))}
        files.write(FILE, json.dumps(tables, separators=(",", ":")) + "\n")


def _cells(settings: Settings) -> Iterator[list[Any]]:
    """[learning rate, batch size, loss, lower bound of the robust accuracy] of each setting."""
    experiment = Experiment.of(settings)
    low, high = np.log10(LEARNING_RATES)
    rates = np.logspace(low, high, round((high - low) * _RATES_A_DECADE) + 1)
    sizes = 2 ** np.arange(math.log2(BATCH_SIZES[0]), math.log2(BATCH_SIZES[1]) + 1)
    grid = [(float(f"{rate:.4g}"), int(size)) for rate in rates for size in sizes]
    for i, (rate, size) in enumerate(track(grid, settings.framework)):
        params = {"learning_rate": rate, "batch_size": size}
        loss, measurement = experiment.measure(params, _FIRST + i, lambda _: None)
        bound = measurement.bound - measurement.cost if measurement else None
        yield [rate, size, _rounded(loss), _rounded(bound)]


def _rounded(value: float | None) -> float | None:
    """Four digits; None for what is not finite."""
    return round(value, 4) if value is not None and math.isfinite(value) else None


if __name__ == "__main__":
    main()
