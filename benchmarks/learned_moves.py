"""Whether the learned moves of a run (`policy="dqn"`) beat always staying (`"default"`).

Both play the same runs: the same problem, weights, batches and disturbances, with probes and
rollbacks counted. Compared are what they hand back on held-out data, its accuracy and its loss (in
units of a uniform guess), in each setting of `benchmarks.runs.disturbed`. The gate: ahead by more
than one standard error over tasks in both, over all settings, for the mean of the networks:

    python -m benchmarks.learned_moves                        # the shipped one, validation tasks
    python -m benchmarks.learned_moves --networks runs/moves  # three training seeds
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import pretrain_moves
from benchmarks.common.report import add_write, mean_and_error, publish, standard_error
from benchmarks.recorded.sources import SOURCES
from benchmarks.runs import problems
from benchmarks.runs.disturbed import SETTINGS, Disturbed, Outcome
from rlhf_tune.progress import track
from rlhf_tune.run import dqn_moves
from rlhf_tune.tensors import SHIPPED

_MUCH = 0.02  # of accuracy


@dataclass(frozen=True)
class Pair:
    """One run by both, and which it was."""

    family: str
    task: str
    setting: str
    network: str
    default: Outcome
    dqn: Outcome

    @property
    def accuracy(self) -> float:
        """What the moves gained."""
        return self.dqn.accuracy - self.default.accuracy

    @property
    def loss(self) -> float:
        """By how much they lowered it."""
        return self.default.loss - self.dqn.loss

    @property
    def value(self) -> float:
        """By how much they lowered the validation loss, which the run sees."""
        return self.default.value - self.dqn.value


def compare(job: tuple[problems.Task, str, int], networks: Mapping[str, Path]) -> list[Pair]:
    """One problem, setting and seed."""
    torch.set_num_threads(1)
    recipe, setting, seed = job
    problem = pretrain_moves.problem(recipe)
    case = Disturbed(problem, setting, seed).bound()
    default, family = case.play("default"), SOURCES[recipe[0]].family
    pairs = []
    for name, path in networks.items():
        decide = partial(dqn_moves.decide, network=dqn_moves.load(path))
        dqn = case.play(pretrain_moves.policy(decide))
        pairs.append(Pair(family, problem.name, setting, name, default, dqn))
    return pairs


def summary(pairs: Sequence[Pair], title: str) -> Table:
    """Gains by setting and network, and over all."""
    table = Table(
        "setting",
        "network",
        "accuracy gained",
        "held-out loss lowered",
        "validation loss lowered",
        f"runs better / worse by {_MUCH:g}",
        "moves a run",
        "certified, default / dqn",
        "violations a run, default / dqn",
        title=title,
    )
    settings = [s for s in SETTINGS if any(pair.setting == s for pair in pairs)]
    networks = list(dict.fromkeys(pair.network for pair in pairs))
    for setting, network in product([*settings, "all"], [*networks, "mean"]):
        if network == "mean" and len(networks) == 1:
            continue
        chosen = [
            pair
            for pair in pairs
            if setting in (pair.setting, "all") and network in (pair.network, "mean")
        ]
        table.add_row(setting, network, *_columns(chosen))
    return table


def _columns(pairs: Sequence[Pair]) -> list[str]:
    gains = np.array([pair.accuracy for pair in pairs])
    outcomes = [(pair.default, pair.dqn) for pair in pairs]
    certified, violations = (
        np.mean([[getattr(o, name) for o in both] for both in outcomes], axis=0)
        for name in ("certified", "violations")
    )
    return [
        *(_gain(pairs, name) for name in ("accuracy", "loss", "value")),
        f"{(gains > _MUCH).mean():.2f} / {(gains < -_MUCH).mean():.2f}",
        f"{np.mean([pair.dqn.moves for pair in pairs]):.1f}",
        "{:.2f} / {:.2f}".format(*certified),
        "{:.2f} / {:.2f}".format(*violations),
    ]


def _gain(pairs: Sequence[Pair], gain: str) -> str:
    return f"{mean_and_error(by(pairs, gain))} ({standard_error(by(pairs, gain, 'family')):.3f})"


def by(pairs: Sequence[Pair], gain: str, group: str = "task") -> NDArray[np.float64]:
    """[groups] the mean gain of each task or family."""
    groups: dict[str, list[float]] = {}
    for pair in pairs:
        groups.setdefault(getattr(pair, group), []).append(getattr(pair, gain))
    return np.array([np.mean(gains) for gains in groups.values()])


def ahead(pairs: Sequence[Pair]) -> bool:
    """Whether the moves pass the gate: better by one standard error in accuracy and in loss."""
    found = (by(pairs, gain) for gain in ("accuracy", "loss"))
    return all(gains.mean() > standard_error(gains) for gains in found)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison and what the gate says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learned_moves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--seeds", type=int, default=1, help="runs a task and setting (1)")
    add("--first-seed", type=int, default=0, help="of the runs (0)")
    add("--networks", type=Path, metavar="FOLDER", help="of benchmarks.pretrain_moves (shipped)")
    add("--processes", type=int, default=2, help="runs side by side (2)")
    add_write(parser)
    args = parser.parse_args(argv)
    words = list(sys.argv[1:] if argv is None else argv)
    tasks = problems.tasks(args.split, files=False, count=args.tasks)
    paths = sorted(args.networks.glob("*.safetensors")) if args.networks else []
    networks = {path.stem: path for path in paths or [SHIPPED.with_name("run_moves.safetensors")]}
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    jobs = list(product(tasks, args.settings, seeds))
    work = partial(compare, networks=networks)
    with ProcessPoolExecutor(args.processes) as pool:
        found = track(pool.map(work, jobs), "runs", len(jobs))
        pairs = [pair for each in found for pair in each]
    families = len({pair.family for pair in pairs})
    table = summary(
        pairs, f"{len(tasks)} {args.split} tasks of {families} families, gains of 'dqn'"
    )
    verdict = "ahead" if ahead(pairs) else "not ahead"
    head = (
        f"`python -m benchmarks.learned_moves {' '.join(words)}`: mean ± s.e. over tasks (over "
        f"families). By the gate "
        f"the learned moves are **{verdict}**."
    )
    Console().print(head, table)
    if args.write:
        which = "" if args.networks else "-shipped"
        publish(f"learned_moves-{args.split}{which}", head, [table], args.write)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
