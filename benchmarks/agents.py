"""Compare the agents, and the DQN without each of its parts, on the same recorded tables.

Each agent plays many episodes on one table (`TabularEnv`: 20 steps from the default cell, noisy
measurements) and learns across them; the incumbent's regret at the end of an episode is judged on
the mean over training seeds. "No mask" chooses among all moves: a forbidden one wastes its step.
Random moves are the baseline that could win. Examples:

    python -m benchmarks.agents
    python -m benchmarks.agents --episodes 50 --tables 2 --seeds 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import tasks
from benchmarks.report import mean_and_error
from rlhf_tune import space
from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.q_learning import QLearning
from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.envs import TabularEnv

STEPS = 20
GAMMA = 0.9
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

    def act(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float) -> int:
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

    def act(self, observation: Any, mask: NDArray[np.bool_], epsilon: float) -> int:
        """Any allowed move."""
        return int(self._rng.choice(np.flatnonzero(mask)))

    def learn(self, step: Step) -> None:
        """Nothing."""


class TablePlayer:
    """Tabular Q-learning; its state is the incumbent's cell."""

    def __init__(self, actions: int, seed: int) -> None:
        """Start with an empty table."""
        self._agent = QLearning(actions, step_size=0.3, seed=seed)

    def act(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float) -> int:
        """Epsilon-greedy by the table."""
        return self._agent.act(_cell(observation), mask, epsilon)

    def learn(self, step: Step) -> None:
        """One update."""
        self._agent.learn(
            _cell(step.observation),
            step.action,
            step.reward,
            step.discount,
            _cell(step.next_observation),
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

    def act(self, observation: NDArray[np.float32], mask: NDArray[np.bool_], epsilon: float) -> int:
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


AGENTS = (
    "random moves",
    "Q-learning",
    "DQN",
    "DQN, no target network",
    "DQN, no replay",
    "DQN, no mask",
)


def player(name: str, env: TabularEnv, moves: NDArray[np.int64], seed: int) -> Player:
    """The agent of a name for an environment."""
    if name == "random moves":
        return RandomPlayer(seed)
    if name == "Q-learning":
        return TablePlayer(len(moves), seed)
    assert env.observation_space.shape is not None
    return NetworkPlayer(
        moves / np.abs(moves).max(axis=0),
        env.observation_space.shape[0],
        seed,
        replay="no replay" not in name,
        target="no target" not in name,
    )


def play(task: tasks.Task, name: str, episodes: int, seed: int) -> NDArray[np.float64]:
    """[episodes, 2] the incumbent's regret at the end, and forbidden moves, of every episode."""
    values = tasks.normalised(task.val_loss[..., -1], task.chance)
    regret = values.mean(axis=0)
    start = (
        int(np.abs(np.log(task.learning_rates / space.DEFAULTS["learning_rate"])).argmin()),
        int(np.abs(task.batch_sizes - space.DEFAULTS["batch_size"]).argmin()),
    )
    env = TabularEnv(values, replicates=True, start=start, budget=STEPS)
    moves = space.offsets(regret.shape)
    agent = player(name, env, moves, seed)
    masked = "no mask" not in name
    rows = []
    for episode in range(episodes):
        epsilon = max(0.05, 1 - episode / (0.5 * episodes))
        forbidden = _episode(env, agent, epsilon, seed * episodes + episode, masked=masked)
        rows.append((regret[env.incumbent], forbidden))
    return np.array(rows, dtype=np.float64)


def _episode(env: TabularEnv, agent: Player, epsilon: float, seed: int, *, masked: bool) -> int:
    observation, info = env.reset(seed=seed)
    over = truncated = False
    forbidden = 0
    while not (over or truncated):
        mask = info["action_mask"]
        action = agent.act(observation, mask if masked else np.ones_like(mask), epsilon)
        forbidden += not mask[action]
        taken = np.int64(action if mask[action] else 0)
        following, reward, over, truncated, info = env.step(taken)
        discount = 0.0 if over else GAMMA  # the budget truncates, and truncation bootstraps
        next_mask = info["action_mask"] if masked else np.ones_like(mask)
        agent.learn(Step(observation, action, float(reward), discount, following, next_mask))
        observation = following
    return forbidden


def _cell(observation: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(np.round(observation[1:-2], 6).tolist())


def summary(results: dict[str, NDArray[np.float64]], episodes: int) -> Table:
    """Mean and standard error over tables (each the mean over seeds)."""
    part = max(1, episodes // 10)
    table = Table(
        "agent",
        f"first {part} episodes",
        f"last {part} episodes",
        "forbidden moves an episode",
        title=f"regret after {STEPS} steps: mean ± s.e. of tables",
    )
    for name, rows in results.items():
        regret, forbidden = rows[..., 0], rows[..., 1]
        first, last = (regret[..., s].mean(axis=(1, 2)) for s in _parts(part))
        table.add_row(name, mean_and_error(first), mean_and_error(last), f"{forbidden.mean():.1f}")
    return table


def _parts(part: int) -> tuple[slice, slice]:
    return slice(None, part), slice(-part, None)


def compare(
    chosen: Sequence[tasks.Task], *, episodes: int, seeds: int, processes: int = 2
) -> dict[str, NDArray[np.float64]]:
    """[tables, seeds, episodes, 2] of each agent, in parallel with a progress bar."""
    jobs = list(product(AGENTS, chosen, range(seeds)))
    work: Callable[..., Any] = play
    with ProcessPoolExecutor(processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work, t, name, episodes, seed) for name, t, seed in jobs]
        rows = [future.result() for future in track(futures, description="runs")]
    shape = (len(AGENTS), len(chosen), seeds, episodes, 2)
    return dict(zip(AGENTS, np.array(rows).reshape(shape), strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--episodes", type=int, default=200, help="episodes an agent plays (200)")
    parser.add_argument("--tables", type=int, default=6, help="validation tables, evenly (6)")
    parser.add_argument("--seeds", type=int, default=2, help="agents a table (2)")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side (2)")
    args = parser.parse_args(argv)
    every = tasks.load("validation")
    chosen = [every[i] for i in np.linspace(0, len(every) - 1, args.tables).round().astype(int)]
    results = compare(chosen, episodes=args.episodes, seeds=args.seeds, processes=args.processes)
    console = Console()
    console.print("tables:", ", ".join(task.name for task in chosen))
    console.print(summary(results, args.episodes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
