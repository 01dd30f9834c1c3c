"""Attacks by gradient within a box around each sample (Linf)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.frameworks import Loss
from rlhf_tune.safety.evaluation import BATCH, Evaluation, batches
from rlhf_tune.safety.samples import PerFeature, check_bounds, check_count, check_eps

AttackName = Literal["fgsm", "pgd", "noise"]
Mask = NDArray[np.bool_]

PGD_STEPS = 10
_STEP = 2.5  # of eps, over all steps: PGD can cross the box from any start (Madry et al.)


@dataclass(frozen=True, eq=False)
class Box:
    """How far samples may be moved: within `eps` of where they are, and within `bounds`.

    Attributes:
        eps: Radius in the units of the data, a number or one for each feature.
        bounds: Range of the data, each a number or one for each feature.
    """

    eps: PerFeature
    bounds: tuple[PerFeature, PerFeature]

    @classmethod
    def checked(cls, x: NDArray[Any], eps: Any, bounds: Any) -> Box:
        """Of what a user handed in; raises `InvalidInputError` where it breaks a rule."""
        bounds = check_bounds(x, bounds)
        return cls(check_eps(eps, x, bounds), bounds)

    @property
    def reach(self) -> PerFeature:
        """The range of the data."""
        return self.bounds[1] - self.bounds[0]

    @staticmethod
    def stride(steps: int) -> float:
        """Of a gradient step, as a share of `eps`."""
        return min(1.0, _STEP / steps)

    def around(self, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """The farthest values of the dtype of `x` [B, ...] below and above, rounding included."""
        low, high = self.bounds
        return _edge(x, self.eps, low, up=False), _edge(x, self.eps, high, up=True)


@dataclass(frozen=True, eq=False)
class Attack:
    """A recipe for moving inputs by gradient, or by noise; see `perturb` for its fields."""

    name: AttackName
    box: Box
    steps: int = PGD_STEPS
    restarts: int = 1
    seed: int = 0

    @classmethod
    def checked(
        cls,
        name: AttackName,
        x: NDArray[Any],
        eps: Any,
        bounds: Any,
        *,
        steps: int | None = None,
        restarts: int = 1,
        seed: int = 0,
    ) -> Attack:
        """An attack on `x`, or `InvalidInputError` for the argument that breaks its rule."""
        if name not in get_args(AttackName):
            raise InvalidInputError(
                f"`attack` must be one of {get_args(AttackName)}, but got {name!r}"
            )
        if steps is not None and name != "pgd":
            raise InvalidInputError(f"`steps` is for attack='pgd' only, but got {name!r}")
        box = Box.checked(x, eps, bounds)
        steps = check_count("steps", PGD_STEPS if steps is None else steps)
        return cls(name, box, steps, check_count("restarts", restarts), seed)

    def tries(self) -> Iterator[tuple[Loss | None, np.random.Generator]]:
        """The loss (none for noise) and the random stream of each try."""
        losses: tuple[Loss | None, ...] = ("margin", "cross_entropy")
        for restart in range(1 if self.name == "fgsm" else self.restarts):
            for loss in (None,) if self.name == "noise" else losses:
                yield loss, np.random.default_rng([self.seed, restart])

    def move(
        self,
        evaluation: Evaluation,
        rows: NDArray[np.intp],
        loss: Loss | None,
        rng: np.random.Generator,
    ) -> tuple[NDArray[Any], Mask]:
        """Moved inputs [B, ...] of the samples `rows`, and a mask [B] of those without gradient."""
        x, eps = evaluation.x[rows], self.box.eps
        low, high = self.box.around(x)
        at = x.astype(np.result_type(x.dtype, np.float32))
        still = np.full(len(x), loss is not None)
        if loss is None:
            return np.where(rng.random(x.shape) < 0.5, low, high), still
        steps, stride = 1, eps
        if self.name == "pgd":
            steps, stride = self.steps, np.minimum(eps, _STEP * eps / self.steps)
            at = np.clip(at + eps * rng.uniform(-1, 1, x.shape), low, high).astype(at.dtype)
        for _ in range(steps):
            signs = evaluation.direction(at, rows, loss)
            still &= ~signs.reshape(len(x), -1).any(axis=1)
            at = np.clip(at + stride * signs, low, high).astype(at.dtype, copy=False)
        return as_data(at, x.dtype), still

    def survivors(self, evaluation: Evaluation) -> tuple[Mask, Mask]:
        """Masks [N]: right before and under every try, and those of them without gradient."""
        alive, still = evaluation.right.copy(), np.zeros(len(evaluation.x), dtype=bool)
        for loss, rng in self.tries():
            for rows in batches(np.flatnonzero(alive), BATCH):
                moved, stuck = self.move(evaluation, rows, loss, rng)
                alive[rows] = evaluation.stays_right(moved, rows)
                if loss == "margin":
                    still[rows] |= stuck
        return alive, alive & still


def as_data(at: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Moved inputs in the dtype of the data, integers rounded."""
    return (np.rint(at) if dtype.kind in "iu" else at).astype(dtype, copy=False)


def _edge(x: NDArray[Any], eps: PerFeature, bound: PerFeature, *, up: bool) -> NDArray[Any]:
    """The farthest values of the dtype of `x` above or below it, within `eps` and `bound`."""
    exact = x.astype(np.float64)
    goal = np.minimum(exact + eps, bound) if up else np.maximum(exact - eps, bound)
    if x.dtype.kind in "iu":
        return np.asarray((exact + np.trunc(goal - exact)).astype(x.dtype))
    edge = goal.astype(x.dtype)
    far = edge.astype(np.float64)
    beyond = (np.abs(far - exact) > eps) | (far > bound if up else far < bound)
    return np.where(beyond, np.nextafter(edge, x), edge)
