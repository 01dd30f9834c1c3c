"""Tabular Q-learning with masked actions: the agent to read first.

It remembers one number per state and action, and moves it towards what an experience says:

    q(s, a)  <-  q(s, a) + alpha (r + discount max_a' q(s', a') - q(s, a))

where the maximum is over the actions that s' allows. `DQN` is the same rule with a network in
place of the table. Source: Watkins and Dayan (1992), doi:10.1007/BF00992698.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.errors import InvalidInputError


class QLearning:
    """A table of action values for hashable states."""

    def __init__(self, actions: int, *, step_size: float = 0.1, seed: int = 0) -> None:
        """Start with all values zero.

        Args:
            actions: Number A of actions.
            step_size: alpha, within (0, 1].
            seed: Of the exploration.

        Raises:
            InvalidInputError: If `step_size` is out of range.
        """
        if not 0 < step_size <= 1:
            raise InvalidInputError(f"`step_size` must be within (0, 1], but got {step_size}")
        self._q: defaultdict[Hashable, NDArray[np.float64]] = defaultdict(lambda: np.zeros(actions))
        self._step_size = step_size
        self._rng = np.random.default_rng(seed)

    def values(self, state: Hashable) -> NDArray[np.float64]:
        """The action values [A] of a state."""
        return self._q[state].copy()

    def act(self, state: Hashable, mask: NDArray[np.bool_], epsilon: float = 0.0) -> int:
        """An allowed action, epsilon-greedy.

        Raises:
            NoAllowedMoveError: If `mask` [A] allows nothing.
        """
        return epsilon_greedy(self._q[state], mask, epsilon, self._rng)

    def learn(
        self,
        state: Hashable,
        action: int,
        reward: float,
        discount: float,
        next_state: Hashable,
        next_mask: NDArray[np.bool_],
    ) -> float:
        """Learn from one transition; returns the temporal-difference error before the step.

        `discount` is 0 where the episode terminated; a next state whose mask allows nothing is
        terminal too.
        """
        bootstrap = self._q[next_state][next_mask].max(initial=-np.inf) if next_mask.any() else 0.0
        error = reward + discount * bootstrap - self._q[state][action]
        self._q[state][action] += self._step_size * error
        return float(error)
