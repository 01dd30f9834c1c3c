"""Fine-tuning as decisions of two levels by one agent: first the group, then the operation."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlhf_tune.envs.fine_tuning import FineTuningEnv, Observation
from rlhf_tune.errors import InvalidInputError


class LevelledEnv(gym.Env[Observation, np.int64]):
    """`FineTuningEnv`, each decision in two: the level is a feature of the state.

    On level 0 an action is the number of a group, changes nothing and is worth nothing; on level 1
    it is that of an operation on it. Observations are those of the environment inside, but for
    "level", and on level 1 "last" marks the group that was chosen. The rest is as there.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration

    def __init__(self, env: FineTuningEnv) -> None:
        """Take charge of an environment."""
        self.inside = env
        self._groups = len(env.groups)
        self._operations = len(env.tuning.operations)
        self.features = env.features
        self._level = self.features.index("level")
        self._last = [self.features.index(f"last {group}") for group in env.groups]
        self.observation_space = env.observation_space
        self._actions = max(self._groups, self._operations)
        self.action_space = gym.spaces.Discrete(self._actions)
        self._chosen: int | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin on level 0."""
        super().reset(seed=seed)
        self._chosen = None
        self._seen, self._info = self.inside.reset(seed=seed, options=options)
        return self._observation(), self._told()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Choose a group, or carry out an operation on the one that was chosen.

        A masked group is replaced by the first that is open; a masked operation is lost.

        Raises:
            InvalidInputError: If the episode is over, or there is no such action.
        """
        if self.inside.tuning.over or not self.action_space.contains(action):
            raise InvalidInputError(
                f"an episode must be going on and the action be below {self._actions}, but "
                f"got {action}; call reset()"
            )
        if self._chosen is None:
            mask = self.action_masks()
            self._chosen = int(action if mask[action] else mask.argmax())
            return self._observation(), 0.0, False, False, self._told()
        number = min(int(action), self._operations - 1)
        whole = np.int64(self._chosen * self._operations + number)
        self._chosen = None
        self._seen, reward, stopped, truncated, self._info = self.inside.step(whole)
        return self._observation(), reward, stopped, truncated, self._told()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which groups, or operations on the group that was chosen, are open."""
        by_group = self.inside.action_masks().reshape(self._groups, self._operations)
        groups: NDArray[np.bool_] = np.asarray(by_group.any(axis=1))
        open_ = groups if self._chosen is None else by_group[self._chosen]
        return np.pad(open_, (0, self._actions - len(open_)))

    def _observation(self) -> Observation:
        seen = self._seen.copy()
        if self._chosen is not None:
            seen[self._level] = 1.0
            seen[self._last] = np.arange(self._groups) == self._chosen
        return seen

    def _told(self) -> dict[str, Any]:
        return {**self._info, "action_mask": self.action_masks()}
