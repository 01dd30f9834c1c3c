r"""The gate of the Q-network: does it beat expected improvement on tasks that did not train it?

Networks of several training seeds play the same studies as the default policy, with the budget
known. A network is worth switching on if the regret at the end falls, over tasks *and* over
training seeds: a paired difference, with its standard error over tasks and over seeds. Examples:

    for s in 0 1 2 3 4; do
        rlhf-tune pretrain --tables benchmarks/tables -o prior.safetensors \
            --network q$s.safetensors --rounds 2 --seed $s
    done
    python -m benchmarks.network q?.safetensors --write
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from rich.console import Console
from rich.table import Table

from benchmarks.common import report
from benchmarks.studies import methods
from benchmarks.studies.studies import Runs, checkpoints, compare
from benchmarks.studies.surfaces import Surface
from rlhf_tune import DQNSampler
from rlhf_tune.study import dqn_residual

EI = "default"
"""What is to be beaten."""


def sampler(path: Path | None, budget: int, seed: int) -> BaseSampler:
    """The default policy with a network's residual; without a network, as it is."""
    result = DQNSampler(policy="dqn" if path else EI, budget=budget, seed=seed)
    if path:
        q = partial(dqn_residual.q_values, network=dqn_residual.load_qmap(path))
        result._policy = replace(result._policy, q=q)
    return result


def makers(networks: Sequence[Path], budget: int) -> dict[str, Callable[[int], BaseSampler]]:
    """How to make a sampler from a seed, by method."""
    named = {path.stem: partial(sampler, path, budget) for path in networks}
    return {EI: partial(sampler, None, budget), **named}


def gains(results: Mapping[str, Runs], trials: int) -> NDArray[np.float64]:
    """[networks, tasks] by how much each network's regret is below that of EI after n trials."""
    after = {name: runs.regret[..., trials - 1].mean(axis=1) for name, runs in results.items()}
    return np.array([after[EI] - rows for name, rows in after.items() if name != EI])


def summary(results: Mapping[str, Runs]) -> Table:
    """Regret, and the paired gain on EI of every network and of their mean."""
    trials = results[EI].regret.shape[-1]
    points = checkpoints(trials)
    heads = (f"{kind} after {n}" for n in points for kind in ("regret", "gain"))
    table = Table("method", *heads, title="gain on expected improvement: mean ± s.e. of tasks")
    every = {n: gains(results, n) for n in points}
    for row, (name, runs) in enumerate(results.items()):
        cells = []
        for n in points:
            cells.append(f"{runs.regret[..., n - 1].mean():.4f}")
            cells.append("" if name == EI else _figure(every[n][row - 1]))
        table.add_row(name, *cells)
    means = {n: every[n].mean(axis=1) for n in points}
    if len(results) > 2:
        cells = [part for n in points for part in ("", _figure(means[n]))]
        table.add_row("mean of the networks ± s.e. of training seeds", *cells)
        cells = [part for n in points for part in ("", _figure(every[n].mean(axis=0)))]
        table.add_row("the same ± s.e. of tasks", *cells)
    return table


def _figure(values: NDArray[np.float64]) -> str:
    return f"{values.mean():+.4f} ± {report.standard_error(values):.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = report.parser("network", __doc__, [EI])
    parser.add_argument("networks", nargs="+", type=Path, metavar="NETWORK", help="one a seed")
    parser.add_argument("--trials", type=int, default=20, help="trials a study (20)")
    parser.add_argument("--seeds", type=int, default=1, help="studies a task (1)")
    report.add_write(parser)
    args = parser.parse_args(words)
    if len({path.stem for path in args.networks}) < len(args.networks):
        parser.error(f"networks must have different names, but got {shlex.join(words)}")
    problems = [Surface(task) for task in report.chosen_tasks(args)]
    results = _compare(problems, args)
    head = (
        f"`python -m benchmarks.network {shlex.join(Path(word).name for word in words)}`: "
        f"{len(problems)} {args.split} tasks x {args.seeds} studies."
    )
    table = summary(results)
    Console().print(head, table)
    if args.write:
        report.publish(f"network-{args.split}", head, [table], args.write)
    return 0


def _compare(problems: Sequence[Surface], args: argparse.Namespace) -> dict[str, Runs]:
    known = makers(args.networks, args.trials)
    methods.METHODS.update(known)  # before the processes that play are forked
    studies = dict.fromkeys(known, args.seeds)
    return compare(problems, studies, trials=args.trials, processes=args.processes)


if __name__ == "__main__":
    raise SystemExit(main())
