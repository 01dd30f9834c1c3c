"""What a policy of fine-tuning sees: no number depends on the architecture or its size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GLOBAL = ("level", "left", "metric", "gain", "best", "loss", "training")
"""Of the run: 0 while one policy chooses group and operation together; the share of the budget that
is left; the metric; its gain since the start; the best gain; the validation and the training loss,
as logarithms of their ratio to the validation loss at the start."""
OF_GROUP = ("gradient", "distance", "share", "depth", "spent", "gain", "loss", "last")
"""Of each group: the relative norm of its gradient, among the groups; how far it is from the start,
relative to its norm; its share of the weights; where it lies between input and output; the share of
the budget spent on it; what its last stretch gained in metric and in the logarithm of the
validation loss; whether it was the last one changed."""

BOUND = 5.0
_SMALL = 1e-6

Floats = NDArray[np.float64]


@dataclass
class Memory:
    """What one group has been through in an episode."""

    spent: float = 0.0
    gain: float = 0.0
    loss: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What is observed, before it is put into numbers.

    Losses and metrics are of the state in hand; `gradient` [G] and `distance` [G] are relative to
    the norm of a group's weights.
    """

    left: float
    metric: float
    start: float
    best: float
    loss: float
    start_loss: float
    training: float
    gradient: Floats
    distance: Floats
    share: Floats
    depth: Floats
    memory: Sequence[Memory]
    last: int | None
    level: float = 0.0
    task: Sequence[float] = field(default_factory=tuple)


def names(groups: Sequence[str], task: int = 0) -> tuple[str, ...]:
    """Of the numbers of an observation."""
    own = [f"{feature} {group}" for group in groups for feature in OF_GROUP]
    return (*GLOBAL, *own, *(f"task {i}" for i in range(task)))


def observe(seen: Seen) -> NDArray[np.float32]:
    """[7 + 8 G + task] what is seen, each within +-5."""
    overall = [
        seen.level,
        seen.left,
        seen.metric,
        seen.metric - seen.start,
        seen.best - seen.start,
        _ratio(seen.loss, seen.start_loss),
        _ratio(seen.training, seen.start_loss),
    ]
    relative = np.log(seen.gradient + _SMALL)
    relative -= relative.mean()
    columns = [
        relative,
        np.sqrt(seen.distance),
        seen.share,
        seen.depth,
        np.array([each.spent for each in seen.memory]),
        np.array([each.gain for each in seen.memory]),
        np.array([each.loss for each in seen.memory]),
        np.array([float(i == seen.last) for i in range(len(seen.memory))]),
    ]
    whole = np.concatenate([overall, np.stack(columns, axis=1).ravel(), np.asarray(seen.task)])
    finite = np.nan_to_num(whole, posinf=BOUND)
    return np.asarray(np.clip(finite, -BOUND, BOUND), dtype=np.float32)


def log_ratio(loss: float, before: float) -> float:
    """The logarithm of how much a loss has fallen; 0 where one is not positive and finite."""
    return -_ratio(loss, before)


def depths(groups: Mapping[str, Sequence[str]], units: Sequence[str]) -> Floats:
    """[G] the mean place of a group's units, from 0 (inputs) to 1 (outputs)."""
    place = {unit: i / max(1, len(units) - 1) for i, unit in enumerate(units)}
    return np.array([np.mean([place[unit] for unit in held]) for held in groups.values()])


def _ratio(loss: float, before: float) -> float:
    if not (0 < loss < math.inf and 0 < before < math.inf):
        return 0.0
    return math.log(max(loss, _SMALL) / before)
