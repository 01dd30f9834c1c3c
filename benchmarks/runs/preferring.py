"""Agents of stable-baselines3 in a training run whose reward was learned from comparisons.

These people want a low validation loss and few changes of the hyperparameters. What a run is worth
to them is known here and seen by no agent: one learns on a reward model of 60 noisy comparisons of
runs by random moves, another on the gain of the metric alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from benchmarks.runs.agents import RandomStart
from rlhf_tune import rewards
from rlhf_tune.envs import TuningEnv
from rlhf_tune.feedback import RewardModel
from rlhf_tune.run.schedules import SGD
from rlhf_tune.testing import ScriptedTrainer

NAMES = ("val_loss", "moves")
_RUNS, _COMPARISONS, _TEST = 40, 60, 6
_STEPS = 5000  # of learning


class Ending(gym.Wrapper[NDArray[np.float32], np.int64, NDArray[np.float32], np.int64]):
    """A run whose budget is spent is over.

    The agents of stable-baselines3 take a truncated episode to go on, and add what they expect of
    the rest; with a discount of 1 that value feeds on itself. They see how much budget is left.
    """

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """As the run does, ended instead of truncated."""
        seen, reward, ended, cut, info = self.env.step(action)
        return seen, float(reward), ended or cut, False, info


def worth(outcomes: Mapping[str, float]) -> float:
    """What a run is worth: a change of a hyperparameter is as bad as .02 of loss."""
    return -50 * outcomes["val_loss"] - outcomes["moves"]


def run(reward: rewards.Reward) -> RandomStart:
    """A noisy quadratic, twenty stretches long, from a random rate."""
    trainer = ScriptedTrainer(samples=3200, curvature=1.0, noise=4.0)
    ranges = {"batch_size": (8.0, 64.0)}
    env = TuningEnv(trainer, steps=100, stretch=5, ranges=ranges, usual_rate=SGD, reward=reward)
    return RandomStart(env)


@cache
def taught(seed: int = 0) -> RewardModel:
    """A reward model of noisy comparisons of runs that stayed, or moved at random."""
    rng = np.random.default_rng(seed)
    env = run(rewards.gain)
    ends = [_end(env, k, float(k % 5) / 4, rng) for k in range(_RUNS)]
    table = np.array([[end[name] for name in NAMES] for end in ends])
    true = np.array([worth(end) for end in ends])
    pairs = np.array([rng.choice(_RUNS, 2, replace=False) for _ in range(_COMPARISONS)])
    i, j = pairs.T
    answers = rng.random(_COMPARISONS) < 1 / (1 + np.exp(np.clip(true[j] - true[i], -50, 50)))
    model = RewardModel(names=NAMES)
    return model.fit(table[i], table[j], answers=answers, population=table)


def _end(env: RandomStart, seed: int, moving: float, rng: np.random.Generator) -> dict[str, float]:
    """The outcomes of a run in which so large a share of the moves is random."""
    _, info = env.reset(seed=seed)
    over = False
    while not over:
        open_ = np.flatnonzero(env.action_masks())
        action = rng.choice(open_) if rng.random() < moving else 0
        _, _, ended, cut, info = env.step(np.int64(action))
        over = ended or cut
    return dict(info["outcomes"])


def wished(change: rewards.Change) -> float:
    """The learned utility, in rewards of a few units at most, as agents like them."""
    return rewards.preference(taught())(change) / 10


def true_utility_of(name: str, *, learned: bool, seed: int = 0, steps: int = _STEPS) -> float:
    """What test runs of an agent are worth on the mean, after it learned.

    Args:
        name: "A2C", "PPO" or "DQN" of stable-baselines3; "stay" never moves, "random" moves
            always.
        learned: Whether its reward is the learned utility, or the gain of the metric.
        seed: Of the agent.
        steps: Of learning.
    """
    env = run(wished if learned else rewards.gain)
    if name == "stay":
        return _played(env, lambda _: 0)
    if name == "random":
        rng = np.random.default_rng(seed)
        return _played(env, lambda _: rng.choice(np.flatnonzero(env.action_masks())))
    import stable_baselines3

    kind = getattr(stable_baselines3, name)
    options: dict[str, Any] = {"seed": seed, "gamma": 1.0, "device": "cpu", "verbose": 0}
    if name == "PPO":
        options |= {"n_steps": 200, "batch_size": 50}
    if name == "DQN":
        options |= {"learning_starts": 200, "train_freq": 2, "target_update_interval": 200}
    agent = kind("MlpPolicy", Ending(env), **options)
    agent.learn(steps)
    return _played(env, lambda seen: int(agent.predict(seen, deterministic=True)[0]))


def _played(env: RandomStart, act: Any) -> float:
    found = []
    for rate in np.geomspace(1e-3, 0.3, _TEST):
        seen, info = env.reset(options={"learning_rate": float(rate)})
        over = False
        while not over:
            seen, _, ended, cut, info = env.step(np.int64(act(seen)))
            over = ended or cut
        found.append(worth(info["outcomes"]))
    return float(np.mean(found))
