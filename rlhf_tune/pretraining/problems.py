"""Problems whose true values are known everywhere, for the Q-networks to learn from.

Recorded tasks are of one kind: learning rate and batch size on one grid. Beside them stand surfaces
that are drawn: valleys of unequal width over one to eight parameters, with a cliff beyond which
training diverges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.pretraining.priors import Recorded
from rlhf_tune.study.space import Lattice, lattice

Floats = NDArray[np.float64]
Space = Mapping[str, BaseDistribution]

# None of these figures was tuned.
_OTHERS: Space = {
    "momentum": FloatDistribution(0.0, 0.99),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "width": IntDistribution(16, 512, log=True),
    "layers": IntDistribution(1, 6),
    "smoothing": FloatDistribution(0.0, 0.3),
}
_DIVERGED = -1.5
_WAVES = 16
_SAMPLE = 512  # cells, of which the best is at 0


class Problem(Protocol):
    """Larger is better, 0 about the best, -1 about useless."""

    @property
    def space(self) -> Space:
        """What is tuned."""

    def true(self, positions: Floats) -> Floats:
        """[M] the mean of measurements at positions [M, D] on its lattice."""

    def measured(self, position: Floats, rng: np.random.Generator) -> float:
        """One measurement at a position [1, D]."""


@dataclass(frozen=True, eq=False)
class Moved:
    """A recorded task, moved by `shift` decades of learning rate; a measurement is of one seed."""

    task: Recorded
    shift: float

    @property
    def space(self) -> Space:
        """Beyond what was recorded the last value goes on."""
        low, high = 10.0 ** self.task.rates[[0, -1]]
        return {
            "learning_rate": FloatDistribution(float(low), float(high), log=True),
            "batch_size": IntDistribution(16, 256, log=True),
        }

    @cached_property
    def _surface(self) -> RegularGridInterpolator:
        task = self.task
        return RegularGridInterpolator((task.rates, task.sizes), np.moveaxis(task.values, 0, -1))

    def _of_seeds(self, positions: Floats) -> Floats:
        sizes, rates = positions.T  # axes are sorted by name
        rates = np.clip(rates - self.shift, *self.task.rates[[0, -1]])
        sizes = np.clip(sizes, *self.task.sizes[[0, -1]])
        return np.asarray(self._surface(np.column_stack([rates, sizes])))

    def true(self, positions: Floats) -> Floats:
        """[M] the mean over training seeds at positions [M, 2]."""
        return np.asarray(self._of_seeds(positions).mean(axis=1))

    def measured(self, position: Floats, rng: np.random.Generator) -> float:
        """Of one training seed."""
        return float(rng.choice(self._of_seeds(position)[0]))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A valley over E features of a lattice, with waves, a cliff and Gaussian noise.

    Attributes:
        space: What is tuned.
        center: [E] where the valley is lowest.
        relevance: [E] how narrow it is along each feature.
        cliff: Decades of learning rate above the center from which training diverges.
        waves: [E, W] frequencies and [W] phases of ripples.
        ripple: Their size.
        noise: The standard deviation of a measurement.
    """

    space: Space
    center: Floats
    relevance: Floats
    cliff: float
    waves: tuple[Floats, Floats]
    ripple: float
    noise: float

    def true(self, positions: Floats) -> Floats:
        """[M] its height at positions [M, D]."""
        return self._height(positions) - self._top

    def measured(self, position: Floats, rng: np.random.Generator) -> float:
        """With noise."""
        return float(self.true(position)[0] + self.noise * rng.normal())

    @cached_property
    def _lattice(self) -> Lattice:
        return lattice(self.space, {})

    @cached_property
    def _top(self) -> float:
        some = cells(self._lattice, np.random.default_rng(0))
        return float(self._height(self._lattice.positions(some)).max())

    def _height(self, positions: Floats) -> Floats:
        apart = self._lattice.in_length_scales(positions) - self.center
        energy = 0.5 * ((apart * self.relevance) ** 2).sum(axis=1)
        frequencies, phases = self.waves
        waves = np.cos(apart @ frequencies + phases).mean(axis=1)
        height = np.exp(-energy) - 1 + self.ripple * waves
        over = apart[:, sorted(self.space).index("learning_rate")] > self.cliff
        return np.where(over, _DIVERGED, height)


def cells(over: Lattice, rng: np.random.Generator) -> NDArray[np.int64]:
    """Some cells [M, D] of a lattice."""
    return rng.integers(np.array(over.shape), size=(_SAMPLE, len(over.shape)))


def drawn(rng: np.random.Generator) -> Drawn:
    """A surface over the learning rate, mostly the batch size, and up to six other parameters."""
    lowest = 10.0 ** rng.uniform(-6, -4)
    space: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(lowest, lowest * 10 ** rng.uniform(3, 6), log=True)
    }
    if rng.random() < 0.8:
        space["batch_size"] = IntDistribution(8, int(2 ** rng.integers(7, 12)), log=True)
    count = int(rng.integers(0, len(_OTHERS) + 1)) if rng.random() < 0.7 else 0
    space |= {str(name): _OTHERS[str(name)] for name in rng.permutation(list(_OTHERS))[:count]}
    over = lattice(space, {})
    features = over.in_length_scales(over.positions(cells(over, rng)))
    width = features.shape[1]
    relevance = np.power(10.0, rng.uniform(-1, 0.3, size=width))
    relevance[sorted(space).index("learning_rate")] = rng.uniform(0.6, 1.6)
    return Drawn(
        space=space,
        center=features[0],
        relevance=relevance,
        cliff=float(rng.uniform(0.3, 1.5)),
        waves=(
            rng.normal(size=(width, _WAVES)) * relevance[:, None] * 2,
            rng.uniform(0, 2 * np.pi, size=_WAVES),
        ),
        ripple=float(rng.uniform(0, 0.5)),
        noise=float(10 ** rng.uniform(-3, -1.3)),
    )
