"""A replay buffer: the last transitions, drawn uniformly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError


class Batch(NamedTuple):
    """B transitions with observations of size O, action features of size F and A actions.

    A prior is a value that is known without learning; the agent then learns what it lacks.
    """

    observation: NDArray[np.float32]  # [B, O]
    action: NDArray[np.float32]  # [B, F]
    reward: NDArray[np.float32]  # [B]
    discount: NDArray[np.float32]  # [B], 0 where the episode terminated
    next_observation: NDArray[np.float32]  # [B, O]
    next_mask: NDArray[np.bool_]  # [B, A]
    prior: NDArray[np.float32] = np.zeros((), np.float32)  # [B], of the action
    next_prior: NDArray[np.float32] = np.zeros(1, np.float32)  # [B, A], of the next actions


class Replay:
    """The last `capacity` transitions (Lin 1992, doi:10.1007/BF00992699)."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise InvalidInputError(f"`capacity` must be at least 1, but got {capacity}")
        self._capacity = capacity
        self._rows: list[Batch] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Batch) -> None:
        """Store one transition (a `Batch` without the leading axis), dropping the oldest."""
        if len(self._rows) < self._capacity:
            self._rows.append(row)
        else:
            self._rows[self._next] = row
        self._next = (self._next + 1) % self._capacity

    def sample(self, size: int, rng: np.random.Generator) -> Batch:
        """Draw `size` transitions uniformly with replacement.

        Raises:
            InvalidInputError: If the buffer is empty.
        """
        if not self._rows:
            raise InvalidInputError("a transition must be added before sampling, but there is none")
        rows = [self._rows[i] for i in rng.integers(len(self._rows), size=size)]
        return Batch(*(np.stack(column) for column in zip(*rows, strict=True)))
