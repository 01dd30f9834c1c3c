"""Agents as episodes use them: what the comparisons on tables and on training runs share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.q_learning import QLearning
from rlhf_tune.agents.replay import Batch, Replay

BATCH = 16


@dataclass(frozen=True)
class Step:
    """One transition of an episode; masks are [A]."""

    observation: NDArray[np.float32]
    action: int
    reward: float
    discount: float
    next_observation: NDArray[np.float32]
    next_mask: NDArray[np.bool_]


class Player(Protocol):
    """An agent as the episodes use it."""

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float = 0.0
    ) -> int:
        """An action for one observation."""
        ...

    def learn(self, step: Step) -> None:
        """Learn from one step."""
        ...


class RandomPlayer:
    """Uniform among the allowed moves."""

    def __init__(self, seed: int) -> None:
        """Seed the choice."""
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Any, mask: NDArray[np.bool_], epsilon: float = 0.0) -> int:
        """Any allowed move."""
        return int(self._rng.choice(np.flatnonzero(mask)))

    def learn(self, step: Step) -> None:
        """Nothing."""


class TablePlayer:
    """Tabular Q-learning, over what a function keeps of an observation."""

    def __init__(
        self, actions: int, state: Callable[[NDArray[np.float32]], Hashable], seed: int
    ) -> None:
        """Start with an empty table."""
        self._agent = QLearning(actions, step_size=0.3, seed=seed)
        self._state = state

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float = 0.0
    ) -> int:
        """Epsilon-greedy by the table."""
        return self._agent.act(self._state(observation), mask, epsilon)

    def learn(self, step: Step) -> None:
        """One update."""
        self._agent.learn(
            self._state(step.observation),
            step.action,
            step.reward,
            step.discount,
            self._state(step.next_observation),
            step.next_mask,
        )


class NetworkPlayer:
    """The double DQN, or the same without replay or target network."""

    def __init__(
        self, moves: NDArray[np.float64], size: int, seed: int, *, replay: bool, target: bool
    ) -> None:
        """Build the agent and, where asked, its buffer."""
        self._moves = moves.astype(np.float32)
        self._agent = DQN(moves, size, target_period=50 if target else None, seed=seed)
        self._replay = Replay(2000 if replay else 1)
        self._rng = np.random.default_rng(seed)

    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float = 0.0
    ) -> int:
        """Epsilon-greedy by the network."""
        return self._agent.act(observation, mask, epsilon)

    def learn(self, step: Step) -> None:
        """Store the step and take one gradient step."""
        self._replay.add(
            Batch(
                step.observation,
                self._moves[step.action],
                np.asarray(step.reward, dtype=np.float32),
                np.asarray(step.discount, dtype=np.float32),
                step.next_observation,
                step.next_mask,
            )
        )
        size = BATCH if len(self._replay) > 1 else 1
        self._agent.learn(self._replay.sample(size, self._rng))
