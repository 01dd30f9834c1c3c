"""Trains the Q-network of fine-tuning on simulated source tasks, and plays the search on them.

python -m benchmarks.pretrain_layers record --tasks 900 -o runs/layers
python -m benchmarks.pretrain_layers learn runs/layers/*.npz -o runs/layers
python -m benchmarks.pretrain_layers search
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import PAGES, mean_and_error, publish
from benchmarks.layers import halving, tasks
from benchmarks.layers import simulation as sim
from benchmarks.layers.experience import experience, kept, load
from rlhf_tune import files
from rlhf_tune.agents.network import Network
from rlhf_tune.agents.network import load as load_network
from rlhf_tune.fine_tuning.policies import OPERATION_FEATURES, pairs
from rlhf_tune.pretraining import fine_tuning
from rlhf_tune.pretraining.fine_tuning import Experience
from rlhf_tune.progress import track

_RATES = (1e-3, 1e-2)
RATE = 1e-2
"""Of equal parts on source tasks, of 1e-3, 3e-3, 1e-2 and 3e-2 one of the two best."""
MARGIN = 0.005
"""The gain that going on must be worth; others from 0 to 0.01 were not told apart."""
MARGINS = (0.0, 0.002, 0.005, 0.01)
_STOP = sim.OPERATIONS.index("stop")


class Wanderer:
    """Copies that try everything: some keep to a group, some change it, some go back."""

    def __init__(self, copies: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._switch = self._rng.choice([0.0, 0.15, 0.4, 0.8], size=copies)
        self._slow = self._rng.choice([0.0, 0.2, 0.8], size=copies)
        self._back = self._rng.choice([0.0, 0.1, 0.3], size=copies)
        self._group = self._rng.integers(len(sim.GROUPS), size=copies)

    def __call__(self, seen: NDArray[np.float32], decision: int) -> NDArray[np.int64]:
        """Actions [M]."""
        rng, copies = self._rng, len(self._group)
        moved = rng.random(copies) < self._switch
        back = (rng.random(copies) < self._back) & (decision > 0)
        drawn = rng.integers(len(sim.GROUPS), size=copies)
        self._group = np.where(moved | back, drawn, self._group)
        slow = rng.random(copies) < self._slow
        names = np.where(back, "return", np.where(slow, "tune slowly", "tune"))
        operations = np.array([sim.OPERATIONS.index(name) for name in names])
        return np.asarray(self._group * len(sim.OPERATIONS) + operations)


class Explorer:
    """Copies that follow a network, each with a share of wandering of its own; none stops."""

    def __init__(self, network: Network, copies: int, seed: int) -> None:
        self._network, self._wander = network, Wanderer(copies, seed)
        self._rng = np.random.default_rng((seed, 1))
        self._share = self._rng.choice([0.05, 0.2, 0.5], size=copies)

    def __call__(self, seen: NDArray[np.float32], decision: int) -> NDArray[np.int64]:
        """Actions [M]."""
        wandering = self._rng.random(len(seen)) < self._share
        return np.where(wandering, self._wander(seen, decision), greedy(self._network, seen)[0])


def greedy(
    network: Network, seen: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best action [M] that does something, and its value [M]."""
    values = np.full((len(seen), len(sim.GROUPS), len(sim.OPERATIONS)), -np.inf)
    for name in OPERATION_FEATURES:
        x = pairs(seen, len(sim.GROUPS), name)
        values[:, :, sim.OPERATIONS.index(name)] = network(x.reshape(-1, x.shape[2])).reshape(
            len(seen), -1
        )
    flat = values.reshape(len(seen), -1)
    return flat.argmax(axis=1), flat.max(axis=1)


def trace(seed: int, split: str, copies: int, network: Network | None = None) -> sim.Trace | None:
    """What copies of one task went through; None where the draw made no task."""
    torch.set_num_threads(1)
    try:
        task = tasks.draw(split, seed)
    except ImportError:  # a picture needs Pillow
        return None
    if task is None:
        return None
    rng = np.random.default_rng(seed)
    rate = float(np.exp(rng.uniform(*np.log(_RATES))))
    choose = Explorer(network, copies, seed) if network else Wanderer(copies, seed)
    return sim.simulate(task, seed, copies, rate, choose)


def record(args: argparse.Namespace) -> None:
    """Write traces of as many tasks as are asked for, or as there is time."""
    begun, found = time.monotonic(), []
    with ProcessPoolExecutor(args.processes) as pool:
        seeds = count(args.first)
        network = load_network(args.policy)[0] if args.policy else None
        work = partial(trace, split=args.split, copies=args.copies, network=network)
        running = [pool.submit(work, next(seeds)) for _ in range(2 * args.processes)]
        while running:
            done = running.pop(0).result()
            late = time.monotonic() - begun > 60 * args.minutes
            if not late and len(found) + len(running) < args.tasks:
                running.append(pool.submit(work, next(seeds)))
            if done is not None:
                found.append(done)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{args.split}-{args.first}.npz"
    fields = {name: np.stack([getattr(each, name) for each in found]) for name in vars(found[0])}
    half = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in fields.items()}
    with files.whole(path) as file:
        np.savez_compressed(file, **half)
    print(f"{len(found)} tasks in {time.monotonic() - begun:.0f} s: {path}")


def learn(args: argparse.Namespace) -> None:
    """Train a network for each seed."""
    torch.set_num_threads(1)
    known = experience(load(args.traces))
    args.output.mkdir(parents=True, exist_ok=True)
    work = partial(_learned, known, args.steps, args.output)
    with ProcessPoolExecutor(args.processes) as pool:
        paths = list(pool.map(work, args.seeds))
    join(args.output / "fine_tuning.safetensors", paths)


def join(path: Path, paths: Sequence[Path]) -> None:
    """Write the mean of several networks."""
    network = fine_tuning.mean_of([load_network(each)[0] for each in paths])
    about = {"networks": str(len(paths))}
    fine_tuning.save(network, MARGIN, path, about)


def _learned(known: Experience, steps: int, folder: Path, seed: int) -> Path:
    torch.set_num_threads(1)
    path = folder / f"fine_tuning-{seed}.safetensors"
    if not path.exists():  # an interrupted command goes on
        network = fine_tuning.learn(known, steps=steps, seed=seed)
        fine_tuning.save(network, MARGIN, path, {"seed": str(seed), "steps": str(steps)})
    return path


def validate(args: argparse.Namespace) -> None:
    """Compare networks with equal parts for plans, on tasks and kinds that taught none."""
    networks = {path.stem: load_network(path)[0] for path in args.networks}
    work = partial(_compared, networks=networks, split=args.split)
    seeds = range(args.first, args.first + args.tasks)
    with ProcessPoolExecutor(args.processes) as pool:
        found = [row for row in track(pool.map(work, seeds), "tasks", len(seeds)) if row]
    table = Table(
        "policy", "accuracy", "gain on equal parts", "decisions", title=f"{len(found)} tasks"
    )
    for name in found[0]:
        accuracy, gain, used = np.array(
            [(row[name][0], row[name][0] - row["equal parts"][0], row[name][1]) for row in found]
        ).T
        table.add_row(name, mean_and_error(accuracy), mean_and_error(gain), f"{used.mean():.1f}")
    Console().print(table)
    if args.write:
        head = (
            f"`python -m benchmarks.pretrain_layers validate`, draws {seeds.start} to "
            f"{seeds.stop - 1} of {args.split}: mean ± s.e. over tasks."
        )
        publish(f"pretrain_layers-{args.split}", head, [table], PAGES / "pretrain_layers.md")


def _compared(
    seed: int, networks: Mapping[str, Network], split: str
) -> dict[str, tuple[float, int]] | None:
    """Held-out accuracy of what each policy hands back, and its decisions."""
    torch.set_num_threads(1)
    task = tasks.draw(split, seed)
    if task is None:
        return None
    plans = _plans()
    margins = [(name, margin) for name in networks for margin in MARGINS]

    def choose(seen: NDArray[np.float32], decision: int) -> NDArray[np.int64]:
        chosen = [plan[decision] for plan in plans.values()]
        for row, (name, margin) in enumerate(margins, len(plans)):
            action, value = greedy(networks[name], seen[row : row + 1])
            chosen.append(int(action[0]) if value[0] > margin else _STOP)
        return np.array(chosen)

    trace = sim.simulate(task, seed, len(plans) + len(margins), RATE, choose)
    worth, best = kept(trace.metric, trace.accuracy), np.maximum.accumulate(trace.metric, axis=0)
    each = sim.DECISIONS // len(plans)
    winner = int(best[each, : len(plans)].argmax())
    found = {"none": (float(worth[0, 0]), 0), "equal parts": (float(worth[each, winner]), 15)}
    found |= {name: (float(worth[5, row]), 5) for row, name in enumerate(plans)}
    for row, (name, margin) in enumerate(margins, len(plans)):
        stops = np.flatnonzero(trace.action[:, row] == _STOP)
        end = int(stops[0]) if len(stops) else sim.DECISIONS
        found[f"{name}, margin {margin:g}"] = float(worth[end, row]), end
    return found


def _plans() -> dict[str, list[int]]:
    """The actions of the plans that have equal parts of the budget."""
    tune = sim.OPERATIONS.index("tune")
    first = {group: number * len(sim.OPERATIONS) + tune for number, group in enumerate(sim.GROUPS)}
    alone = {group: [action] * sim.DECISIONS for group, action in first.items()}
    return {**alone, "LP-FT": [first["head"]] + [first["all"]] * (sim.DECISIONS - 1)}


def search(args: argparse.Namespace) -> None:
    """Compare the search of `fine_tune` with equal parts for plans, at several given rates."""
    seeds = range(args.first, args.first + args.tasks)
    work = partial(_searched, split=args.split)
    with ProcessPoolExecutor(args.processes) as pool:
        rows = [row for row in track(pool.map(work, seeds), "tasks", len(seeds)) if row]
    found = np.array(rows)  # [tasks, rates, equal parts or search]
    table = Table("given rate", "equal parts", "search", "gain", title=f"{len(found)} tasks")
    names = [*(f"{rate:.2g}" for rate in halving.GIVEN), "mean"]
    columns = np.concatenate([found, found.mean(axis=1, keepdims=True)], axis=1)
    for number, name in enumerate(names):
        equal, halved = columns[:, number].T
        table.add_row(name, *(mean_and_error(each) for each in (equal, halved, halved - equal)))
    Console().print(table)
    if args.write:
        head = (
            f"`python -m benchmarks.pretrain_layers search --split {args.split}`, draws "
            f"{seeds.start} to {seeds.stop - 1}: mean ± s.e. over tasks."
        )
        publish(f"pretrain_layers-search-{args.split}", head, [table], PAGES / "pretrain_layers.md")


def _searched(seed: int, split: str) -> list[tuple[float, float]] | None:
    torch.set_num_threads(1)
    try:
        task = tasks.draw(split, seed)
    except ImportError:  # a picture needs Pillow
        return None
    return task and halving.searches(task, seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Record, or learn."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pretrain_layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stages = parser.add_subparsers(required=True)
    add = (first := stages.add_parser("record", help="simulate source tasks")).add_argument
    add("--split", choices=["train", "validation"], default="train")
    add("--tasks", type=int, default=900, help="so many (900)")
    add("--minutes", type=float, default=600, help="begin no more tasks after (600)")
    add("--copies", type=int, default=64, help="episodes of each (64)")
    add("--first", type=int, default=0, help="seed of the first task (0)")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    add("-o", "--output", type=Path, required=True, help="a folder")
    add("--policy", type=Path, help="follow this network, with some wandering")
    first.set_defaults(run=record)
    add = (second := stages.add_parser("learn", help="train networks")).add_argument
    add("traces", nargs="+", type=Path, help="what was recorded")
    add("--steps", type=int, default=8000, help="of gradient descent (8000)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a network each (0 1 2)")
    add("--processes", type=int, default=2, help="networks side by side (2)")
    add("-o", "--output", type=Path, required=True, help="a folder")
    second.set_defaults(run=learn)
    add = (
        third := stages.add_parser("validate", help="compare with equal parts for plans")
    ).add_argument
    add("networks", nargs="+", type=Path, help="what was learned")
    add("--split", choices=["train", "validation"], default="validation")
    add("--tasks", type=int, default=100, help="draws (100)")
    add("--first", type=int, default=0, help="seed of the first one (0)")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    add("--write", action="store_true", help="put the table into the page of this command")
    third.set_defaults(run=validate)
    add = (fourth := stages.add_parser("search", help="play the search")).add_argument
    add("--split", choices=["train", "validation"], default="validation")
    add("--tasks", type=int, default=90, help="draws (90)")
    add("--first", type=int, default=0, help="seed of the first one (0)")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    add("--write", action="store_true", help="put the table into the page of this command")
    fourth.set_defaults(run=search)
    args = parser.parse_args(argv)
    args.run(args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
