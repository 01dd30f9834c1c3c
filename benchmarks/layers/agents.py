"""Agents that learn from scratch to fine-tune one model, beside what needs no learning."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.common.report import mean_and_error
from benchmarks.layers import tasks
from benchmarks.layers.baselines import score
from benchmarks.layers.simulation import pretrained
from benchmarks.recorded.networks import network
from benchmarks.runs.players import NetworkPlayer, RandomPlayer, Step, TablePlayer
from rlhf_tune.envs import FineTuningEnv, LevelledEnv
from rlhf_tune.fine_tuning.driver import KNOWN
from rlhf_tune.fine_tuning.operations import RATED
from rlhf_tune.fine_tuning.policies import play, search, shipped
from rlhf_tune_integrations.pytorch import TorchTrainer

Observation = NDArray[np.float32]
Mask = NDArray[np.bool_]

DECISIONS = 10
_GAMMA = 0.99
_THEIRS: Mapping[str, dict[str, Any]] = {
    "sb3 A2C": {},
    "sb3 PPO": {"n_steps": 40, "batch_size": 20, "learning_rate": 1e-3},
    "sb3-contrib MaskablePPO": {"n_steps": 40, "batch_size": 20, "learning_rate": 1e-3},
}
OURS = ("nothing", "random", "Q-learning", "Q-learning, two levels", "DQN", "DQN, two levels")


def _taken(env: FineTuningEnv | LevelledEnv) -> Callable[[Observation], tuple[int, ...]]:
    """What a table keeps: the decisions taken, the last group and, on level 1, the chosen one."""

    def state(observation: Observation) -> tuple[int, ...]:
        seen = dict(zip(env.features, observation, strict=True))
        last = [int(value) for name, value in seen.items() if name.startswith("last ")]
        return (int(seen["level"]), round(DECISIONS * float(seen["left"])), *last)

    return state


def names() -> list[str]:
    """The agents; those of stable-baselines3 where it is installed."""
    return [*OURS, *(_THEIRS if find_spec("sb3_contrib") else ()), "search", "dqn, pre-trained"]


def trial(job: tuple[str, int, int]) -> float:
    """Held-out accuracy of what an agent hands back, after so many decisions of learning."""
    name, seed, steps = job
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    task = _task(seed)
    operations = RATED if name == "search" else KNOWN
    env = FineTuningEnv(_trainer(task, seed), steps=DECISIONS, stretch=20, operations=operations)
    if name == "search":
        episodes = list(search(env.tuning))
        env.tuning.run = max(episodes, key=lambda episode: episode.worth).run
    elif name == "dqn, pre-trained":
        play(env.tuning, shipped(tuple(operation.name for operation in KNOWN)))
    elif name == "nothing":
        env.reset(seed=seed)
    elif name in _THEIRS:
        _theirs(name, env, steps, seed)
    else:
        _ours(name, env, steps, seed)
    return score(copy.deepcopy(env.hand_back()), task.held_out)[0]


def summary(found: Mapping[str, NDArray[np.float64]], steps: int) -> Table:
    """Accuracy of each agent [seeds]."""
    table = Table(
        "agent",
        "decisions of learning",
        "held-out accuracy",
        "gain on search",
        title=f"Agents that learn from scratch on one task, {DECISIONS} decisions an episode",
    )
    for name, accuracy in found.items():
        learned = steps if name in (*OURS[2:], *_THEIRS) else 0
        gain = mean_and_error(accuracy - found["search"])
        table.add_row(name, str(learned), mean_and_error(accuracy), gain)
    return table


def _ours(name: str, inside: FineTuningEnv, steps: int, seed: int) -> None:
    """Learn epsilon-greedy, then play an episode."""
    env = LevelledEnv(inside) if name.endswith("two levels") else inside
    count = int(env.action_space.n)
    player: Any = RandomPlayer(seed)
    if name.startswith("Q-learning"):
        player = TablePlayer(count, _taken(env), seed)
    elif name.startswith("DQN"):
        moves = np.eye(count)
        player = NetworkPlayer(moves, len(env.features), seed, replay=True, target=True)
    decided, observation, info = 0, *env.reset(seed=seed)
    while decided < (0 if name == "random" else steps):
        action = player.act(observation, info["action_mask"], max(0.05, 1 - 2 * decided / steps))
        following, reward, over, truncated, info = env.step(np.int64(action))
        discount = 0.0 if over or truncated else _GAMMA
        player.learn(
            Step(observation, action, float(reward), discount, following, info["action_mask"])
        )
        observation, decided = following, decided + (env is inside or following[0] == 0)
        if over or truncated:
            observation, info = env.reset()
    _episode(env, lambda seen, mask: player.act(seen, mask, 0.0))


def _theirs(name: str, env: FineTuningEnv, steps: int, seed: int) -> None:
    import sb3_contrib
    import stable_baselines3

    masked = name.startswith("sb3-contrib")
    kind = getattr(sb3_contrib if masked else stable_baselines3, name.split()[1])
    agent = kind("MlpPolicy", env, gamma=_GAMMA, seed=seed, device="cpu", **_THEIRS[name])
    agent.learn(steps)

    def choose(seen: Observation, mask: Mask) -> int:
        told = {"action_masks": mask} if masked else {}
        return int(agent.predict(seen, deterministic=True, **told)[0])

    _episode(env, choose)


def _episode(env: FineTuningEnv | LevelledEnv, choose: Any) -> None:
    observation, info = env.reset(seed=0)
    over = False
    while not over:
        action = choose(observation, info["action_mask"])
        observation, _, terminated, truncated, info = env.step(np.int64(action))
        over = terminated or truncated


def _task(seed: int) -> tasks.Task:
    """A validation task of tables or images with a plain network."""
    for draw in range(1000 * (seed + 1), 1000 * (seed + 2)):
        task = tasks.draw("validation", draw)
        if task is not None and task.network == "mlp32x32":
            return task
    raise AssertionError


def _trainer(task: tasks.Task, seed: int) -> TorchTrainer:
    model = as_torch(task, pretrained(task, seed)[1])
    return TorchTrainer(
        model,
        torch.optim.Adam(model.parameters(), 1e-2),
        torch.nn.functional.cross_entropy,
        task.train,
        task.validation,
        batch_size=16,
        metrics=("accuracy",),
        seed=seed,
    )


def as_torch(task: tasks.Task, weights: torch.Tensor) -> torch.nn.Module:
    """An MLP of `benchmarks.recorded.networks`, of weights [1, P], as a module."""
    layers = network(task.network, task.source[0].shape[1], task.n_classes).unpacked(weights)
    sizes = [layers[0][0].shape[1], *(weight.shape[2] for weight, _ in layers)]
    modules: list[torch.nn.Module] = []
    for a, b in pairwise(sizes):
        modules += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1])
    with torch.no_grad():
        for layer, (weight, bias) in zip(model[::2], layers, strict=True):
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0, 0])
    return model
