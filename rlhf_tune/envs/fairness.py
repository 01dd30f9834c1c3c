"""Decisions about people of several groups, at a price for deciding them unlike."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, final

import gymnasium as gym
import numpy as np

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.rewards import Lagrangian

_FEWEST = 20  # decisions on each group before their rates are compared


def _is_one(action: Any) -> bool:
    return bool(np.asarray(action) == 1)


class FairnessCost(gym.Wrapper[Any, Any, Any, Any]):
    """Takes a multiplier times the gap of decisions off the reward, step by step.

    The gap is that of the rates at which groups are selected, of the group selected most (A) to
    the one selected least (B). A step costs

        (1[A] / P(A) - 1[B] / P(B)) selected

    whose mean is the gap: an agent that maximises the sum of rewards maximises its own reward
    minus the multiplier times the gap. Which groups these are, and how frequent, is counted over
    the last `window` steps. The agent is whoever plays: PPO and A2C of stable-baselines3, or ours.
    Of several copies side by side each counts its own steps.

    `info` has `cost`, `gap`, `multiplier` and `reward` (that of the environment itself).

    Attributes:
        multiplier: In effect, in units of the environment's reward.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        group: Callable[[Any], str | int],
        weight: float | Lagrangian,
        *,
        selected: Callable[[Any], bool] = _is_one,
        window: int = 2000,
        every: int = 200,
    ) -> None:
        """Wrap an environment.

        Args:
            env: In which each step decides on somebody.
            group: Of an observation: the group of whom the next action is about.
            weight: The multiplier; or a `Lagrangian` with `at_most`, which ascends by the gap.
            selected: Whether an action is the benefit; by default action 1 is.
            window: Steps over which rates are counted.
            every: Steps between two moves of the multiplier.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        super().__init__(env)
        if isinstance(weight, Lagrangian):
            if weight.at_most is None:
                raise InvalidInputError(
                    "the Lagrangian of an environment needs the gap that is allowed: "
                    "Lagrangian('gap', at_most=0.1)"
                )
        elif not weight >= 0:
            raise InvalidInputError(f"`weight >= 0` must hold, but got {weight}")
        if not 1 <= every <= window:
            raise InvalidInputError(
                f"1 <= every <= window must hold, but got every={every}, window={window}"
            )
        self._group, self._weight, self._selected = group, weight, selected
        self._recent: deque[tuple[str | int, bool]] = deque(maxlen=window)
        self._counts: dict[str | int, list[int]] = {}  # decisions and selections, of the window
        self._every, self._steps = every, 0
        self._seen: Any = None

    @property
    def multiplier(self) -> float:
        """In effect, in units of the environment's reward."""
        return self._weight.multiplier if isinstance(self._weight, Lagrangian) else self._weight

    @property
    def rates(self) -> Mapping[str | int, float]:
        """The share selected of each group over the window; of groups seen often enough."""
        return {g: taken / n for g, (n, taken) in self._counts.items() if n >= _FEWEST}

    @property
    def gap(self) -> float:
        """The largest difference of two groups' rates; 0 while fewer than two are known."""
        rates = self.rates.values()
        return max(rates) - min(rates) if len(rates) > 1 else 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; what was counted stays."""
        self._seen, info = self.env.reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Decide, and pay."""
        group, taken = self._group(self._seen), self._selected(action)
        cost = self._cost(group) if taken else 0.0
        multiplier = self.multiplier
        self._count(group, taken)
        self._seen, reward, terminated, truncated, info = self.env.step(action)
        told = {"cost": cost, "gap": self.gap, "multiplier": multiplier, "reward": reward}
        self._ascend()
        paid = float(reward) - multiplier * cost
        return self._seen, paid, terminated, truncated, {**info, **told}

    def _cost(self, group: str | int) -> float:
        rates = self.rates
        if len(rates) < 2 or group not in rates:
            return 0.0
        most, least = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
        if rates[most] == rates[least] or group not in (most, least):
            return 0.0
        share = self._counts[group][0] / len(self._recent)
        return (1.0 if group == most else -1.0) / share

    def _count(self, group: str | int, taken: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            gone, was_taken = self._recent[0]
            self._counts[gone][0] -= 1
            self._counts[gone][1] -= was_taken
        self._recent.append((group, taken))
        counts = self._counts.setdefault(group, [0, 0])
        counts[0] += 1
        counts[1] += taken

    def _ascend(self) -> None:
        self._steps += 1
        weight = self._weight
        full = len(self._recent) == self._recent.maxlen
        if not (full and self._steps % self._every == 0):
            return
        if isinstance(weight, Lagrangian) and weight.at_most is not None:
            weight.ascend(self.gap - weight.at_most)


@final
class AveragedPolicy:
    """The mean of the policies along the way of an agent of stable-baselines3.

    The last iterate of dual ascent oscillates around the optimum; their mixture converges. It is a
    callback of `learn`, and afterwards acts as one of the policies, drawn anew for each decision::

        averaged = AveragedPolicy(after=20_000)
        agent.learn(60_000, callback=averaged)
        averaged.act(observation)
    """

    def __init__(self, *, after: int, every: int = 1000, seed: int = 0) -> None:
        """Begin.

        Args:
            after: Steps of learning before the first policy is taken.
            every: Steps between two of them.
            seed: Of the draws, of policies and of their actions.
        """
        self._after, self._every = after, every
        self._policies: list[Any] = []
        self._taken = -1  # the number of the interval in which the last one was taken
        self._rng = np.random.default_rng(seed)

    def __call__(self, now: dict[str, Any], _: dict[str, Any]) -> bool:
        """Take the agent's policy, if it is time to; called after each step."""
        steps = now["self"].num_timesteps
        if steps >= self._after and steps // self._every > self._taken:
            self._taken = steps // self._every
            self._policies.append(copy.deepcopy(now["self"].policy))
        return True

    def act(self, observation: Any, mask: Any = None) -> int:
        """The action of a policy drawn at random.

        Raises:
            InvalidInputError: If no policy was taken.
        """
        policy = self._policies[self._rng.integers(len(self._checked()))]
        return int(policy.predict(observation)[0])

    def probabilities(self, observations: Any) -> Any:
        """Of each action [N, A], for observations [N, ...].

        Raises:
            InvalidInputError: If no policy was taken.
        """
        found = [_probabilities(policy, observations) for policy in self._checked()]
        return np.mean(found, axis=0)

    def _checked(self) -> list[Any]:
        if not self._policies:
            raise InvalidInputError(
                f"at least after={self._after} steps must be learned with this callback, but no "
                f"policy was taken"
            )
        return self._policies


def _probabilities(policy: Any, observations: Any) -> Any:
    given, _ = policy.obs_to_tensor(observations)
    return policy.get_distribution(given).distribution.probs.detach().cpu().numpy()
