"""A training run as a noisy quadratic: the dynamics of SGD in closed form, for a stretch at once.

With curvatures h, the parameters w move towards the optimum of the training data, and what is
judged is the distance to that of the validation data (Schaul et al. 2013, arXiv:1206.1106; Zhang
et al. 2019, arXiv:1907.04164). A run costs milliseconds. In the middle of it the world may change,
as in `benchmarks.runs.disturbed`: the rate no longer has the effect that it had, or the data are
others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.run.trainer import Metrics
from rlhf_tune.safety.custom import constraint
from rlhf_tune.safety.measurement import Constraint

Floats = NDArray[np.float64]

USUAL_RATE = 1e-3
BATCH = 32
_DIMENSIONS = 12
_STEPS_PER_EPOCH = 16


@dataclass(frozen=True, eq=False)
class World:
    """What is trained, and what happens to it.

    Attributes:
        curvature: [D]
        start: [D] the first parameters; the loss there is about 1.
        optimum: [D] of the validation data.
        before: [D] the optimum of the training data until the change.
        after: [D] and from then on.
        noise: Of the gradient, relative to the curvature.
        floor: What the loss cannot go below.
        change: The step at which the world changes.
        rate_factor: What the rate is multiplied by from then on.
        robust: [D] where a second, constrained quadratic has its optimum.
        bound: Of that one; inf for no constraint.
        epochs: The budget.
    """

    curvature: Floats
    start: Floats
    optimum: Floats
    before: Floats
    after: Floats
    noise: float
    floor: float
    change: int
    rate_factor: float
    robust: Floats
    bound: float
    epochs: int

    def loss(self, w: Floats) -> float:
        """The validation loss."""
        return self.floor + self._distance(w, self.optimum)

    def constraints(self) -> tuple[Constraint, ...]:
        """On the second quadratic, if it is bounded."""
        if math.isinf(self.bound):
            return ()
        return (constraint("robust", self._risk, at_most=self.bound),)

    def _risk(self, model: Model) -> float:
        return self._distance(model.w, self.robust)

    def _distance(self, w: Floats, optimum: Floats) -> float:
        return float((self.curvature * (w - optimum) ** 2).sum() / 2)


@dataclass
class Model:
    """Parameters [D]."""

    w: Floats


def draw(setting: str, seed: tuple[int, ...]) -> World:
    """A random world of a setting: "plain", "rate", "shift" or "constraint"."""
    rng = np.random.default_rng(seed)
    decades = np.sort(rng.uniform(0, rng.uniform(1, 4), _DIMENSIONS))
    curvature = 2 / (USUAL_RATE * 10 ** rng.uniform(0, 2.5)) * 10 ** -(decades - decades[0])
    share = rng.dirichlet(np.full(_DIMENSIONS, 0.5))
    start = _random_signs(rng) * np.sqrt(2 * share / curvature)
    epochs = int(rng.integers(13, 60))
    gap = _offset(rng, curvature, 10 ** rng.uniform(-3.5, -1.0))
    before, after, noise, change, rate_factor = gap, gap, 10 ** rng.uniform(-3.5, -0.7), 0, 1.0
    if setting == "shift":
        moved = gap + _offset(rng, curvature, 10 ** rng.uniform(-2, -0.3))
        before, after = (moved, gap) if rng.random() < 0.5 else (gap, moved)
    if setting == "rate":
        rate_factor = 10 ** (rng.choice([-1, 1]) * rng.uniform(0.5, 1.5))
    if setting in ("rate", "shift"):
        change = int(rng.uniform(0.2, 0.6) * epochs * _STEPS_PER_EPOCH)
    world = World(
        curvature=curvature,
        start=start,
        optimum=np.zeros(_DIMENSIONS),
        before=before,
        after=after,
        noise=noise * BATCH * 4 / 0.3,  # the loss at .3 of the largest stable rate stays so high
        floor=rng.uniform(0, 0.3),
        change=change,
        rate_factor=rate_factor,
        robust=start * rng.uniform(0, 0.5) + _offset(rng, curvature, 10 ** rng.uniform(-2, -0.5)),
        bound=math.inf,
        epochs=epochs,
    )
    return replace(world, bound=_binding(world, rng)) if setting == "constraint" else world


def _random_signs(rng: np.random.Generator) -> Floats:
    return rng.choice([-1.0, 1.0], _DIMENSIONS)


def _offset(rng: np.random.Generator, curvature: Floats, loss: float) -> Floats:
    """A vector [D] at which the loss is so much above that of the optimum."""
    return _random_signs(rng) * np.sqrt(
        2 * loss * rng.dirichlet(np.full(_DIMENSIONS, 0.5)) / curvature
    )


def _binding(world: World, rng: np.random.Generator) -> float:
    """A bound that holds on a part of the way from the start to the optimum."""
    way = [world._risk(Model(world.start * share)) for share in np.linspace(1, 0, 20)]
    return float(min(way) + rng.uniform(0.1, 0.9) * (max(way[-1], way[0]) - min(way)))


class QuadraticTrainer:
    """Trains in a world; its noise is a function of the seed and the steps taken."""

    def __init__(self, world: World, seed: tuple[int, ...]) -> None:
        """Begin at the world's start, with the usual rate."""
        self.model = Model(world.start)
        self._world, self._seed = world, seed
        self._now = {"learning_rate": USUAL_RATE, "batch_size": float(BATCH)}
        self._taken = 0  # of the world's time: not brought back by a snapshot

    @property
    def hyperparameters(self) -> Mapping[str, float]:
        """The learning rate and the batch size in effect."""
        return dict(self._now)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch."""
        return math.ceil(_STEPS_PER_EPOCH * BATCH / self._now["batch_size"])

    def train(self, steps: int) -> Metrics:
        """Take steps, before and after the world changes."""
        change = self._world.change - self._taken
        parts = (change, steps - change) if 0 < change < steps else (steps,)
        losses = [self._train(part) for part in parts]
        return {"steps": steps, "loss": float(np.average(losses, weights=parts))}

    def evaluate(self) -> Metrics:
        """The validation loss."""
        with np.errstate(over="ignore", invalid="ignore"):
            return {"val_loss": self._world.loss(self.model.w)}

    def set(self, **hyperparameters: float) -> None:
        """Change the learning rate or the batch size."""
        self._now |= hyperparameters

    def snapshot(
        self, into: tuple[Floats, dict[str, float]] | None = None
    ) -> tuple[Floats, dict[str, float]]:
        """The parameters, which are never changed in place, and the hyperparameters."""
        return self.model.w, dict(self._now)

    def restore(self, snapshot: tuple[Floats, dict[str, float]]) -> None:
        """Go back to a state."""
        self.model.w, self._now = snapshot[0], dict(snapshot[1])

    @np.errstate(over="ignore", invalid="ignore")
    def _train(self, steps: int) -> float:
        """The parameters after some steps, drawn from their distribution; the mean loss on the way.

        A step multiplies the distance to the optimum by 1 - a h, and adds noise of variance
        a^2 h c / b; both are summed in closed form.
        """
        world, later = self._world, self._taken >= self._world.change
        rate = self._now["learning_rate"] * (world.rate_factor if later else 1.0)
        optimum = world.after if later else world.before
        rng = np.random.default_rng((*self._seed, self._taken))
        self._taken += steps
        shrink = 1 - rate * world.curvature
        square = np.minimum(shrink**2, 1e6)
        once = rate**2 * world.curvature * world.noise / self._now["batch_size"]
        total = (1 - square**steps) / (1 - square + 1e-15)  # of the geometric series
        away, variance = self.model.w - optimum, once * total
        spread = once * (1 - total / steps) / (1 - square + 1e-15)  # of the variance, on the way
        mean = (world.curvature * (away**2 * total / steps + spread)).sum() / 2
        self.model.w = (
            optimum + shrink**steps * away + np.sqrt(variance) * rng.standard_normal(_DIMENSIONS)
        )
        return float(world.floor + mean)
