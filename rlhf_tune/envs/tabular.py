"""Tuning on a recorded table: one step looks up what one training run gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study import space

Observation = NDArray[np.float32]


class TabularEnv(gym.Env[Observation, np.int64]):
    """Hyperparameter search on a lattice whose every cell has been measured beforehand.

    The incumbent is the best allowed cell measured so far; while none is allowed, the one that
    violates least. An action measures the cell at an offset from the incumbent. The reward is the
    gain of the incumbent's value over the one before, at least 0: over an episode the rewards sum
    to the last minus the first allowed value (as improvement, whatever the direction). The first
    allowed cell itself earns nothing, as there is nothing allowed to compare it with.

    The observation [D + 3] float32 holds the incumbent's value, its position with each axis scaled
    to [0, 1] [D], the share of the budget left, and whether it is allowed (1) or not (0).

    `info` holds `action_mask` bool [A], `cell` (the one just measured), `value`, `cost` (what the
    constraint measured there, 0 without one) and `violation` (cost > 0). An episode is truncated
    when the budget is spent, and terminates only when no cell of the lattice is untried.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration

    def __init__(
        self,
        values: ArrayLike,
        *,
        replicates: bool = False,
        direction: Literal["minimize", "maximize"] = "minimize",
        start: Sequence[int] | None = None,
        budget: int = 20,
        constraint: ArrayLike | None = None,
        offsets: NDArray[np.int64] | None = None,
    ) -> None:
        """Set up the table.

        Args:
            values: Finite measurements [n_1, ..., n_D]; with `replicates` [S, n_1, ..., n_D], of
                which each measurement shows a random one.
            replicates: Whether the first axis of the tables counts repeated measurements.
            direction: Which values are better.
            start: The cell measured by `reset` (not counted in the budget); default: the middle.
            budget: Number of steps of an episode.
            constraint: Costs c of the shape of `values`; a cell is allowed where c <= 0.
            offsets: Moves [A, D] in cells, row 0 being all zeros ("stay": measure the incumbent
                again); default: `rlhf_tune.study.space.offsets`.

        Raises:
            InvalidInputError: If a table has a wrong shape or a value that is not finite, or if
                start, budget or offsets do not fit it.
        """
        table = np.asarray(values, dtype=np.float64)
        self._values = table if replicates else table[None]
        self._sign = 1.0 if direction == "maximize" else -1.0
        self._costs = np.zeros_like(self._values)
        if constraint is not None:
            costs = np.asarray(constraint, dtype=np.float64)
            self._costs = costs if replicates else costs[None]
        self._shape = self._values.shape[1:]
        self._start = tuple(start) if start is not None else tuple(n // 2 for n in self._shape)
        self._steps = budget
        self._offsets = space.offsets(self._shape) if offsets is None else np.asarray(offsets)
        self._check()
        low, high = np.zeros(len(self._shape) + 3), np.ones(len(self._shape) + 3)
        low[0], high[0] = self._values.min(), self._values.max()
        # Rounding to float32 must not put an extreme value outside.
        self.observation_space = gym.spaces.Box(
            np.nextafter(low.astype(np.float32), np.float32(-np.inf)),
            np.nextafter(high.astype(np.float32), np.float32(np.inf)),
        )
        self.action_space = gym.spaces.Discrete(len(self._offsets))
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Measure the start cell."""
        super().reset(seed=seed, options=options)
        self._left, self._over = self._steps, False
        self._tried = np.zeros(self._shape, dtype=np.bool_)
        self._incumbent = self._start
        self._value, self._cost = self._measure(self._start)
        return self._observation(), self._info(self._start, self._value, self._cost)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Measure the cell at an offset from the incumbent.

        Raises:
            InvalidInputError: If the action is masked or the episode is over.
        """
        if self._over:
            raise InvalidInputError(
                "an episode must be going on, but its budget is spent, every cell is tried, or it "
                "never began; call reset()"
            )
        if not self.action_space.contains(action) or not self.action_masks()[action]:
            raise InvalidInputError(
                f"an action must be allowed by action_masks(), but got {action} (offset "
                f"{self._offset_of(action)} from {self._incumbent}); choose where the mask is True"
            )
        moved = np.array(self._incumbent) + self._offsets[action]
        cell = tuple(int(i) for i in moved)
        value, cost = self._measure(cell)
        self._left -= 1
        reward = self._take(cell, value, cost)
        terminated, truncated = bool(self._tried.all()), self._left == 0
        self._over = terminated or truncated
        info = self._info(cell, value, cost)
        return self._observation(), reward, terminated, truncated, info

    @property
    def incumbent(self) -> tuple[int, ...]:
        """The best allowed cell measured so far; while none is allowed, the least violating."""
        return self._incumbent

    def action_masks(self) -> NDArray[np.bool_]:
        """Which moves [A] lead to an untried cell of the lattice; "stay" is always allowed."""
        cells = np.array(self._incumbent) + self._offsets
        mask: NDArray[np.bool_] = np.all((cells >= 0) & (cells < self._shape), axis=1)
        mask[mask] = ~self._tried[tuple(cells[mask].T)]
        mask[0] = True
        return mask

    def _measure(self, cell: tuple[int, ...]) -> tuple[float, float]:
        self._tried[cell] = True
        replicate = int(self.np_random.integers(len(self._values)))
        at = (replicate, *cell)
        return float(self._values[at]), float(self._costs[at])

    def _take(self, cell: tuple[int, ...], value: float, cost: float) -> float:
        """Make a better cell the incumbent; returns the reward."""
        gain = self._sign * (value - self._value)
        comparable = cost <= 0 and self._cost <= 0
        better = gain > 0 if comparable else max(cost, 0.0) < max(self._cost, 0.0)
        if better:
            self._incumbent, self._value, self._cost = cell, value, cost
        return gain if better and comparable else 0.0

    def _observation(self) -> Observation:
        position = np.array(self._incumbent) / np.maximum(np.array(self._shape) - 1, 1)
        left = self._left / self._steps
        return np.array([self._value, *position, left, self._cost <= 0], dtype=np.float32)

    def _info(self, cell: tuple[int, ...], value: float, cost: float) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks(),
            "cell": cell,
            "value": value,
            "cost": cost,
            "violation": cost > 0,
        }

    def _offset_of(self, action: np.int64) -> str:
        known = self.action_space.contains(action)
        return str(self._offsets[action].tolist()) if known else "unknown"

    def _check(self) -> None:
        dims = len(self._shape)
        if dims == 0 or not self._values.size or not np.isfinite(self._values).all():
            raise InvalidInputError(
                "values must be a non-empty table of finite numbers, but got shape "
                f"{self._shape}; replace diverged runs by a worst value, such as the loss of chance"
            )
        if self._costs.shape != self._values.shape or np.isnan(self._costs).any():
            raise InvalidInputError(
                f"constraint must have the shape of values, {self._values.shape}, and no NaN, but "
                f"got {self._costs.shape}; give one cost a cell"
            )
        inside = len(self._start) == dims and all(
            0 <= i < n for i, n in zip(self._start, self._shape, strict=True)
        )
        if not inside:
            raise InvalidInputError(
                f"start must be a cell of {self._shape}, but got {self._start}; name one"
            )
        if self._steps < 1:
            raise InvalidInputError(f"budget >= 1 must hold, but got {self._steps}; allow a step")
        if self._offsets.shape[1:] != (dims,) or self._offsets[0].any():
            raise InvalidInputError(
                f"offsets must be [A, {dims}] with zeros in row 0, but got shape "
                f"{self._offsets.shape}; see rlhf_tune.study.space.offsets"
            )
