"""A synthetic problem of seven parameters on top of a recorded surface of two.

What a network's other parameters do is modelled, not recorded:

- *The learning rate that acts* is lr x (.1 / (1 - momentum))^a x (width / 64)^b x (depth / 2)^c:
  momentum accumulates steps (a in [.5, 1]; 1 in theory), larger networks need smaller steps (b in
  [0, .5], c in [0, .7]). The recorded surface is looked up there. So the best learning rate
  depends on three other parameters.
- *Capacity*, log2(width / 64) + (depth - 2), has an optimum in [-2, 4] per task.
- *Regularisation*, log10(weight decay) + 4 + dropout / .2, has an optimum that grows with
  capacity: in [-.5, 2.5] plus [0, .4] times (capacity - optimum). Dropout and weight decay can so
  stand in for each other; dropout has a mild optimum in [0, .3] of its own.
- *Momentum* has a mild optimum in [.5, .95] of its own.

Each effect is a squared distance from its optimum with a strength drawn log-uniformly per task
(so that for most tasks some parameters hardly matter); with their sum p >= 0 and a surface value v,

    value = 1 - (1 - v) exp(-p),

which is 0 only where everything is best, 1 where the network learns nothing, and smooth. All is
drawn from a seed made of the task's name. The noise is that of the recorded training seeds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from benchmarks.studies.surfaces import Surface

OTHERS: dict[str, BaseDistribution] = {
    "momentum": FloatDistribution(0.0, 0.99),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.6),
    "width": IntDistribution(16, 512, log=True),
    "depth": IntDistribution(1, 6),
}
USUAL = {"momentum": 0.9, "weight_decay": 1e-4, "dropout": 0.2, "width": 64, "depth": 2}
"""Where every method starts; here the learning rate that acts is the learning rate."""

_RANGES = {  # of what is drawn per task
    "by_momentum": (0.5, 1.0),
    "by_width": (0.0, 0.5),
    "by_depth": (0.0, 0.7),
    "capacity": (-2.0, 4.0),
    "regularisation": (-0.5, 2.5),
    "slope": (0.0, 0.4),
    "dropout": (0.0, 0.3),
    "momentum": (0.5, 0.95),
}
_STRENGTHS = {  # of the squared distances, in (log2 units, decades, unit ranges)
    "capacity": (0.003, 0.06),
    "regularisation": (0.003, 0.1),
    "dropout": (0.1, 1.0),
    "momentum": (0.05, 0.5),
}


class Seven:
    """A recorded surface with five more parameters: a `Problem`.

    Attributes:
        name: The task's name.
        family: The underlying data.
        space: All seven.
        start: The usual values.
    """

    def __init__(self, surface: Surface) -> None:
        """Draw the effects of the other parameters from the task's name."""
        rng = np.random.default_rng(zlib.crc32(f"seven {surface.name}".encode()))
        self.name, self.family = surface.name, surface.family
        self.space = surface.space | OTHERS
        self.start: dict[str, Any] = surface.start | USUAL
        self._surface = surface
        self._at = {key: float(rng.uniform(*ends)) for key, ends in _RANGES.items()}
        self._strength = {
            key: math.exp(rng.uniform(*np.log(ends))) for key, ends in _STRENGTHS.items()
        }

    def values(self, params: Mapping[str, Any]) -> NDArray[np.float64]:
        """[S] what a training run with each seed gives."""
        rate = {"learning_rate": self.acting_rate(params), "batch_size": params["batch_size"]}
        base = self._surface.values(rate)
        return np.asarray(1 - (1 - base) * math.exp(-self.penalty(params)))

    def acting_rate(self, params: Mapping[str, Any]) -> float:
        """The learning rate at which the recorded surface is looked up."""
        by = self._at
        rate: float = (
            params["learning_rate"]
            * (0.1 / (1 - params["momentum"])) ** by["by_momentum"]
            * (params["width"] / 64) ** by["by_width"]
            * (params["depth"] / 2) ** by["by_depth"]
        )
        return rate

    def penalty(self, params: Mapping[str, Any]) -> float:
        """p: 0 where capacity, regularisation, dropout and momentum are at their best."""
        at = self._at
        capacity = math.log2(params["width"] / 64) + params["depth"] - 2 - at["capacity"]
        regularisation = math.log10(params["weight_decay"]) + 4 + params["dropout"] / 0.2
        distances: dict[str, float] = {
            "capacity": capacity,
            "regularisation": regularisation - at["regularisation"] - at["slope"] * capacity,
            "dropout": params["dropout"] - at["dropout"],
            "momentum": params["momentum"] - at["momentum"],
        }
        return sum(self._strength[key] * distance**2 for key, distance in distances.items())
