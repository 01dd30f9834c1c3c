"""Tuning problems made of recorded tasks: any learning rate and batch size can be looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from scipy.interpolate import RegularGridInterpolator

from benchmarks.recorded import tasks
from rlhf_tune.study.space import DEFAULTS

Floats = NDArray[np.float64]
Objective = Literal["loss", "accuracy", "error"]


class Problem(Protocol):
    """What a study is run on.

    Values are on one scale for all problems: 0 is the best setting's mean over training seeds,
    1 a uniform guess.

    Attributes:
        name: Names the problem's noise, too.
        family: The underlying data.
        space: The parameters.
        start: Where every method begins.
    """

    name: str
    family: str
    space: dict[str, BaseDistribution]
    start: dict[str, Any]

    def values(self, params: Mapping[str, Any]) -> Floats:
        """[S] what a training run with each seed gives."""


class Surface:
    """A recorded task as a function of learning rate and batch size: a `Problem`.

    Attributes:
        name: The task's name.
        family: The underlying data.
        space: The recorded ranges.
        start: The framework's default.
    """

    def __init__(
        self, task: tasks.Task, *, objective: Objective = "loss", shift: float = 0.0
    ) -> None:
        """Interpolate every seed and epoch linearly in log coordinates.

        Args:
            task: The recorded task.
            objective: The measure that counts. Accuracies count as errors, 1 - accuracy.
            shift: Moves the task along the learning rate by so many decades; beyond what was
                recorded the last value goes on. 0 is then the best cell that is still in range.
        """
        self.name, self.family = task.name, task.family
        (low, *_, high), (small, *_, large) = task.learning_rates, task.batch_sizes
        self.space: dict[str, BaseDistribution] = {
            "learning_rate": FloatDistribution(float(low), float(high), log=True),
            "batch_size": IntDistribution(int(small), int(large), log=True),
        }
        self.start: dict[str, Any] = {
            "learning_rate": DEFAULTS["learning_rate"],
            "batch_size": int(DEFAULTS["batch_size"]),
        }
        moved = _moved(_clipped(task, objective), np.log10(task.learning_rates), shift)
        best, guess = moved[..., -1].mean(axis=0).min(), _guess(task, objective)
        normal = (moved - best) / (guess - best)
        self._grid = (np.log(task.learning_rates), np.log(task.batch_sizes))
        self._table = RegularGridInterpolator(self._grid, np.moveaxis(normal, 0, 2))

    def values(self, params: Mapping[str, Any]) -> Floats:
        """[S] after the last epoch."""
        return self.curves(params)[:, -1]

    def curves(self, params: Mapping[str, Any]) -> Floats:
        """[S, E] after each epoch; what lies beyond the recorded ranges counts as their ends."""
        point = np.log([params["learning_rate"], params["batch_size"]])
        ends = np.array([[axis[0], axis[-1]] for axis in self._grid])
        return np.asarray(self._table(np.clip(point, ends[:, 0], ends[:, 1]))[0])


def _guess(task: tasks.Task, objective: Objective) -> float:
    return task.chance if objective == "loss" else 1 - 1 / task.n_classes


def _clipped(task: tasks.Task, objective: Objective) -> Floats:
    """[S, L, B, E] the measure, smaller is better, at most a uniform guess's."""
    recorded = task.val_loss if objective == "loss" else 1 - task.val_accuracy.astype(np.float64)
    return np.minimum(recorded.astype(np.float64), _guess(task, objective))


def _moved(table: Floats, decades: Floats, shift: float) -> Floats:
    """A table [S, L, B, E] whose learning rates `decades` [L] are moved."""
    if not shift:
        return table
    along = RegularGridInterpolator((decades,), np.moveaxis(table, 1, 0))
    sources = np.clip(decades - shift, decades[0], decades[-1])
    return np.moveaxis(along(sources), 0, 1)
