"""Compare the agents on the same recorded tables, and on the same training runs.

On a table (`TabularEnv`: 20 steps from the default cell, noisy measurements) the DQN is also played
without each of its parts. Each agent plays many episodes and learns across them; the incumbent's
regret at the end of an episode is judged on the mean over training seeds. "No mask" chooses among
all moves: a forbidden one wastes its step. Random moves are the baseline that could win.

In training runs (`TuningEnv`) the agents of stable-baselines3 and sb3-contrib play too; see
`benchmarks.runs.agents`. Examples:

    python -m benchmarks.agents
    python -m benchmarks.agents --on runs --runs scripted --steps 1000
    python -m benchmarks.agents --on tables --episodes 50 --tables 2 --seeds 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, mean_and_error, publish
from benchmarks.recorded import tasks
from benchmarks.runs import agents
from benchmarks.runs.players import NetworkPlayer, Player, RandomPlayer, Step, TablePlayer
from rlhf_tune.envs import TabularEnv
from rlhf_tune.progress import track
from rlhf_tune.study import space

STEPS = 20
GAMMA = 0.9


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
        return TablePlayer(len(moves), _cell, seed)
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
        rows = [future.result() for future in track(futures, "runs")]
    shape = (len(AGENTS), len(chosen), seeds, episodes, 2)
    return dict(zip(AGENTS, np.array(rows).reshape(shape), strict=True))


def in_runs(runs: Sequence[str], *, steps: int, seeds: int, processes: int) -> Table:
    """Every agent in some training runs."""
    pairs = agents.pairs(runs)
    jobs = list(product(pairs, range(seeds)))
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(agents.play, *pair, steps, seed) for pair, seed in jobs]
        rows = [future.result() for future in track(futures, "runs")]
    shape = (len(pairs), seeds, -1)
    return agents.summary(dict(zip(pairs, np.reshape(rows, shape), strict=True)), steps)


def on_tables(*, episodes: int, tables: int, seeds: int, processes: int) -> Table:
    """Every agent on some validation tables, evenly."""
    every = tasks.load("validation")
    chosen = [every[i] for i in np.linspace(0, len(every) - 1, tables).round().astype(int)]
    results = compare(chosen, episodes=episodes, seeds=seeds, processes=processes)
    table = summary(results, episodes)
    table.caption = "tables: " + ", ".join(task.name for task in chosen)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--on", nargs="+", choices=("tables", "runs"), default=["tables", "runs"])
    add("--episodes", type=int, default=100, help="that an agent plays on a table (100)")
    add("--tables", type=int, default=6, help="validation tables, evenly (6)")
    add("--runs", nargs="+", choices=agents.RUNS, default=list(agents.RUNS))
    add("--steps", type=int, default=600, help="of an agent in a training run (600)")
    add("--seeds", type=int, default=3, help="agents a table or run (3)")
    add("--processes", type=int, default=2, help="runs side by side (2)")
    add_write(parser)
    args = parser.parse_args(argv)
    shared = {"seeds": args.seeds, "processes": args.processes}
    made = {}
    if "tables" in args.on:
        made["tables"] = on_tables(episodes=args.episodes, tables=args.tables, **shared)
    if "runs" in args.on:
        made["runs"] = in_runs(args.runs, steps=args.steps, **shared)
    Console().print(*made.values())
    head = f"`python -m benchmarks.agents {' '.join(sys.argv[1:] if argv is None else argv)}`"
    for name, table in made.items() if args.write else ():
        publish(f"agents-{name}", head, [table], args.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
