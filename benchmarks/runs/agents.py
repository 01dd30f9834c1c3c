"""Agents of this project and of stable-baselines3 on the same training runs (`TuningEnv`).

Every agent takes the same number of environment steps; an episode is one run, from a learning rate
drawn between 1e-4 and 1. Then it plays test episodes without exploring, from rates that are the
same for all. "No mask" agents of stable-baselines3 do not know the mask: a forbidden move costs its
share of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.common.report import mean_and_error
from benchmarks.recorded.data import prepare
from benchmarks.recorded.sources import SOURCES
from benchmarks.runs.players import NetworkPlayer, Player, RandomPlayer, Step, TablePlayer
from benchmarks.runs.problems import Problem
from rlhf_tune.envs import TuningEnv
from rlhf_tune.run.schedules import SGD
from rlhf_tune.testing import ScriptedTrainer

Observation = NDArray[np.float32]
Choose = Callable[[Observation, NDArray[np.bool_]], int]

GAMMA = 0.99
RATES = (1e-4, 1.0)
_STRETCHES = 20
_RANGES = {"batch_size": (8, 64)}
_TEST = 8  # episodes


class RandomStart(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """Begins every episode at a learning rate drawn at random, unless told one."""

    def __init__(self, env: TuningEnv) -> None:
        """Wrap."""
        super().__init__(env)
        self.tuning = env

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a rate, unless `options` has one."""
        super().reset(seed=seed)
        low, high = np.log(RATES)
        drawn = {"learning_rate": float(np.exp(self.env.np_random.uniform(low, high)))}
        return self.env.reset(options=options or drawn)

    def action_masks(self) -> NDArray[np.bool_]:
        """Where MaskablePPO looks for them."""
        return self.tuning.action_masks()


def scripted() -> TuningEnv:
    """A noisy quadratic in expectation."""
    trainer = ScriptedTrainer(samples=3200, curvature=1.0, noise=4.0)
    return TuningEnv(trainer, steps=100, stretch=100 // _STRETCHES, ranges=_RANGES, usual_rate=SGD)


def real() -> TuningEnv:
    """An MLP on a data set of a train family."""
    trainer = _problem().trainer(1e-2, 0)
    return TuningEnv(
        trainer,
        steps=160,
        stretch=160 // _STRETCHES,
        ranges=_RANGES,
        usual_rate=_problem().usual_rate,
    )


@cache
def _problem() -> Problem:
    data = prepare(SOURCES["moons"])
    return Problem("moons-mlp64-sgd", data, "mlp64", "sgd", 1.0, 160)


RUNS: Mapping[str, Callable[[], TuningEnv]] = {"scripted": scripted, "MLP on moons": real}


def _seen(env: TuningEnv) -> Callable[[Observation], tuple[int, ...]]:
    """What a table keeps: half decades of the rate, quarters of the budget, and rollbacks."""
    columns = [env.features.index(name) for name in ("rate", "progress", "rolled back")]

    def state(observation: Observation) -> tuple[int, ...]:
        rate, progress, rolled_back = observation[columns]
        return round(2 * float(rate)), int(4 * progress), int(rolled_back)

    return state


class StayPlayer:
    """Never moves."""

    def act(self, observation: Observation, mask: NDArray[np.bool_], epsilon: float = 0.0) -> int:
        """Stay."""
        return 0

    def learn(self, step: Step) -> None:
        """Nothing."""


def _ours(name: str, env: TuningEnv, seed: int) -> Player:
    if name == "always stay":
        return StayPlayer()
    if name == "random moves":
        return RandomPlayer(seed)
    if name == "Q-learning":
        return TablePlayer(len(env.moves), _seen(env), seed)
    assert env.observation_space.shape is not None
    moves = np.log2(np.array(env.moves)) / 2
    size = env.observation_space.shape[0]
    return NetworkPlayer(moves, size, seed, replay=True, target=True)


@dataclass
class Trained:
    """An agent that learned, and what its learning cost.

    Attributes:
        choose: Its move, without exploring.
        forbidden: Moves it made against the mask, an episode of learning.
    """

    choose: Choose
    forbidden: float


def _train_ours(name: str, env: RandomStart, steps: int, seed: int) -> Trained:
    """Epsilon-greedy; the exploration falls over the first half, as in stable-baselines3's DQN."""
    player = _ours(name, env.tuning, seed)
    observation, info = env.reset(seed=seed)
    for step in range(steps):
        epsilon = max(0.05, 1 - 2 * step / steps)
        action = player.act(observation, info["action_mask"], epsilon)
        following, reward, over, truncated, info = env.step(np.int64(action))
        # The budget is part of the state, so its end is an end like any other.
        discount = 0.0 if over or truncated else GAMMA
        mask = info["action_mask"]
        player.learn(Step(observation, action, float(reward), discount, following, mask))
        observation = following
        if over or truncated:
            observation, info = env.reset()
    return Trained(lambda seen, mask: player.act(seen, mask, 0.0), 0.0)


_BASELINES: Mapping[str, dict[str, Any]] = {
    "sb3 DQN, no mask": {
        "learning_starts": 50,
        "train_freq": 1,
        "target_update_interval": 50,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "exploration_fraction": 0.5,
    },
    "sb3 PPO, no mask": {"n_steps": 100, "batch_size": 50, "learning_rate": 1e-3},
    "sb3 A2C, no mask": {},
    "sb3-contrib MaskablePPO": {"n_steps": 100, "batch_size": 50, "learning_rate": 1e-3},
}

_OURS = ("always stay", "random moves", "Q-learning", "DQN")


def _train_theirs(name: str, env: RandomStart, steps: int, seed: int) -> Trained:
    import sb3_contrib
    import stable_baselines3

    masked = name.startswith("sb3-contrib")
    kind = getattr(sb3_contrib if masked else stable_baselines3, name.split()[1].rstrip(","))
    counted = Counted(env)
    agent = kind(
        "MlpPolicy", counted, gamma=GAMMA, seed=seed, device="cpu", verbose=0, **_BASELINES[name]
    )
    agent.learn(steps)

    def choose(seen: Observation, mask: NDArray[np.bool_]) -> int:
        keywords = {"action_masks": mask} if masked else {}
        action, _ = agent.predict(seen, deterministic=True, **keywords)
        return int(action)

    return Trained(choose, counted.forbidden / max(1, counted.episodes))


class Counted(gym.Wrapper[Observation, np.int64, Observation, np.int64]):
    """Counts episodes and moves against the mask."""

    def __init__(self, env: RandomStart) -> None:
        """Wrap."""
        super().__init__(env)
        self.forbidden = self.episodes = 0
        self.action_masks = env.action_masks

    def step(self, action: np.int64) -> tuple[Observation, Any, bool, bool, dict[str, Any]]:
        """Count."""
        observation, reward, over, truncated, info = super().step(action)
        self.forbidden += info["verdict"] == "masked"
        self.episodes += over or truncated
        return observation, reward, over, truncated, info


def play(run: str, name: str, steps: int, seed: int) -> NDArray[np.float64]:
    """[3] mean regret at the end of test episodes, forbidden moves of one, and while learning."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    env = RandomStart(RUNS[run]())
    train = _train_theirs if name in _BASELINES else _train_ours
    trained = train(name, env, steps, seed)
    ends = [_test(env, trained.choose, float(rate)) for rate in np.geomspace(*RATES, _TEST)]
    regret, forbidden = np.mean(ends, axis=0)
    return np.array([regret - reference(run), forbidden, trained.forbidden])


def _test(env: RandomStart, choose: Choose, rate: float) -> tuple[float, int]:
    """The value of the best state, in units of the start, and forbidden moves."""
    observation, info = env.reset(options={"learning_rate": rate})
    over, forbidden = False, 0
    start = info["value"]
    while not over:
        action = choose(observation, info["action_mask"])
        observation, _, terminated, truncated, info = env.step(np.int64(action))
        forbidden += info["verdict"] == "masked"
        over = terminated or truncated
    values = [stretch.value for stretch in env.tuning.record if stretch.committed]
    return min([start, *values]) / start, forbidden


@cache
def reference(run: str) -> float:
    """The best value that any of 17 constant rates comes to, without moves."""
    env = RandomStart(RUNS[run]())
    return min(_test(env, lambda *_: 0, float(r))[0] for r in np.geomspace(1e-4, 1, 17))


def summary(results: Mapping[tuple[str, str], NDArray[np.float64]], steps: int) -> Table:
    """Mean and standard error over seeds [seeds, 3] of each run and agent."""
    table = Table(
        "run",
        "agent",
        "regret at the end",
        "forbidden moves an episode",
        "the same while learning",
        title=f"training runs, {steps} environment steps each: mean ± s.e. of seeds",
    )
    for (run, name), rows in results.items():
        regret, forbidden, learning = rows.T
        table.add_row(
            run,
            name,
            mean_and_error(regret),
            f"{forbidden.mean():.1f}",
            f"{learning.mean():.1f}",
        )
    return table


def pairs(runs: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of a run and an agent; those of stable-baselines3 where it is installed."""
    theirs = list(_BASELINES) if find_spec("sb3_contrib") else []
    return list(product(runs, [*_OURS, *theirs]))
