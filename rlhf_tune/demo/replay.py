"""What other samplers would have run into, played on a recorded table of the demo's task.

`python -m rlhf_tune.demo.record` recorded it: a training for each setting of a grid. A sampler that
proposes a setting gets what the nearest one of the grid reached. The floor is asked of what was
recorded, so any floor can be replayed; other data, epochs or radii cannot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from rlhf_tune.demo.experiment import BATCH_SIZES, LEARNING_RATES
from rlhf_tune.demo.settings import Settings

FILE = Path(__file__).with_name("recorded.json")

_STUDIES = 20

Cell = tuple[float, int, float, float]
"""Learning rate, batch size, loss, lower bound of the robust accuracy; inf and 0 if diverged."""


def same_task(settings: Settings) -> dict[str, Any]:
    """The settings that a recorded table depends on; the floor is asked of it afterwards."""
    return {key: settings.fixed[key] for key in ("data", "epochs", "eps", "max_train")}


def recorded(settings: Settings) -> list[Cell] | None:
    """The table of a framework's task; None if it is of another one."""
    table = json.loads(FILE.read_text("utf-8")).get(settings.framework)
    if table is None or table["task"] != same_task(settings):
        return None
    return [_cell(*cell) for cell in table["cells"]]


def _cell(lr: float, size: int, loss: float | None, bound: float | None) -> Cell:
    if loss is None or bound is None:
        return lr, size, math.inf, 0.0
    return lr, size, loss, bound


def replay(settings: Settings) -> dict[str, Any] | None:
    """What random search and TPE would have run into; None where this task was not recorded.

    Returns:
        "below": by method, how many of its first 1, 2, ... trials lie below the floor, means over
        studies that all start where the demo starts; "settings": those of the table that do.
    """
    cells = recorded(settings)
    if cells is None:
        return None
    floor, n = settings.min_robust_accuracy, settings.trials
    samplers: dict[str, Callable[[int], BaseSampler]] = {"random search": _random, "TPE": _tpe}
    return {
        "below": {
            name: _mean([_violations(make(i), cells, floor, n) for i in range(_STUDIES)])
            for name, make in samplers.items()
        },
        "settings": [
            {"learning_rate": lr, "batch_size": size} for lr, size, _, low in cells if low < floor
        ],
    }


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _violations(
    sampler: BaseSampler, cells: Sequence[Cell], floor: float, trials: int
) -> list[bool]:
    """Whether each trial of a study lies below the floor."""
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"learning_rate": 1e-3, "batch_size": 32})
    below: list[bool] = []

    def objective(trial: optuna.Trial) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", *LEARNING_RATES, log=True),
            "batch_size": trial.suggest_int("batch_size", *BATCH_SIZES, log=True),
        }
        _, _, loss, bound = _nearest(cells, params)
        trial.set_constraint("robust_accuracy", floor - bound)
        below.append(bound < floor)
        return min(loss, 1e9)

    study.optimize(objective, trials)
    return below


def _nearest(cells: Sequence[Cell], params: Mapping[str, Any]) -> Cell:
    """The recorded setting next to a proposed one, in decades and octaves."""
    lr, size = math.log10(params["learning_rate"]), math.log2(params["batch_size"])
    away = [(math.log10(c[0]) - lr) ** 2 + (math.log2(c[1]) - size) ** 2 for c in cells]
    return cells[int(np.argmin(away))]


def _mean(studies: Sequence[Sequence[bool]]) -> list[float]:
    counts = np.cumsum(np.asarray(studies), axis=1).mean(axis=0)
    return [round(float(count), 2) for count in counts]
