r"""The gate of the Q-networks: is their residual non-inferior to expected improvement?

Ensembles of several training seeds play the same studies as the default policy, which is expected
improvement, on recorded tasks (plain and shifted) and on every kind of live problem. An ensemble
may be the default only if its regret is behind by less than .002 after 5, 10, 20 and 40 trials, as
measured and as retrained, in every one of these. Examples:

    for s in 0 1 2; do
        rlhf-tune pretrain --tables benchmarks/tables -o prior.safetensors \
            --network q$s.safetensors --seed $s
    done
    python -m benchmarks.network q?.safetensors --write
    python -m benchmarks.network q?.safetensors --on seven eight --seeds 4
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
from benchmarks.kinds import studies as live
from benchmarks.kinds.catalogue import KINDS, problems
from benchmarks.studies import methods
from benchmarks.studies.studies import Runs, checkpoints, compare
from benchmarks.studies.surfaces import Surface
from rlhf_tune import DQNSampler
from rlhf_tune.study import dqn_residual

EI = "default"
"""What is to be matched."""
MARGIN = 0.002
"""By how much regret an ensemble may be behind."""
RECORDED = {"recorded": 0.0, "recorded-1.4": -1.4, "recorded+1.4": 1.4}
"""Recorded tasks by the decades that they are shifted."""
GROUPS = (*RECORDED, *KINDS)


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


def gains(results: Mapping[str, Runs], regrets: str, trials: int) -> NDArray[np.float64]:
    """[networks, problems] by how much less regret each ensemble has than EI after n trials."""
    place = checkpoints(_trials(results)).index(trials) if regrets == "retrained" else trials - 1
    after = {
        name: getattr(runs, regrets)[..., place].mean(axis=1) for name, runs in results.items()
    }
    return np.array([after[EI] - rows for name, rows in after.items() if name != EI])


def _trials(results: Mapping[str, Runs]) -> int:
    return int(results[EI].regret.shape[-1])


def summary(played: Mapping[str, Mapping[str, Runs]], regrets: str) -> Table:
    """The gain of each ensemble on EI, by group of problems."""
    points = checkpoints(max(map(_trials, played.values())))
    head = {"regret": "as measured", "retrained": "of the recommendation, retrained"}[regrets]
    title = f"gain on expected improvement, regret {head}: mean ± s.e. of problems"
    table = Table("problems", "ensemble", *(f"after {n}" for n in points), title=title)
    for group, results in played.items():
        if not results[EI].retrained.size and regrets == "retrained":
            continue  # under constraints
        every = [gains(results, regrets, n) for n in points]
        for row, name in enumerate(name for name in results if name != EI):
            table.add_row(group, name, *(_figure(gain[row]) for gain in every))
    return table


def behind(played: Mapping[str, Mapping[str, Runs]]) -> list[str]:
    """Where an ensemble is behind by `MARGIN` or more: group, ensemble, trials and difference."""
    found = []
    for group, results in played.items():
        names = [name for name in results if name != EI]
        for regrets in ("regret", "retrained"):
            if not getattr(results[EI], regrets).size:
                continue
            for n in checkpoints(_trials(results)):
                mean = gains(results, regrets, n).mean(axis=1)
                late = zip(names, mean, strict=True)
                found += [
                    f"{group} {name} {regrets} {n}: {gain:+.4f}"
                    for name, gain in late
                    if gain <= -MARGIN
                ]
    return found


def _figure(values: NDArray[np.float64]) -> str:
    return f"{values.mean():+.4f} ± {report.standard_error(values):.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = report.parser("network", __doc__, [EI])
    parser.add_argument("networks", nargs="+", type=Path, metavar="NETWORKS", help="one a seed")
    parser.add_argument("--on", nargs="+", choices=GROUPS, default=GROUPS, help="problems (all)")
    parser.add_argument("--trials", type=int, default=40, help="trials a study (40)")
    parser.add_argument("--seeds", type=int, default=1, help="studies a recorded task (1)")
    parser.add_argument("--live-seeds", type=int, default=4, help="studies a live problem (4)")
    report.add_write(parser)
    args = parser.parse_args(words)
    if len({path.stem for path in args.networks}) < len(args.networks):
        parser.error(f"networks must have different names, but got {shlex.join(words)}")
    known = makers(args.networks, args.trials)
    methods.METHODS.update(known)  # before the processes that play are forked
    played = {group: _played(group, list(known), args) for group in args.on}
    said = [Path(w).name if w.endswith(".safetensors") else w for w in words]
    missed = behind(played)
    head = (
        f"`python -m benchmarks.network {shlex.join(said)}`: {args.split} problems. Behind by "
        f"{MARGIN} or more: {'; '.join(missed) or 'nowhere'}."
    )
    tables = [summary(played, regrets) for regrets in ("regret", "retrained")]
    Console().print(head, *tables)
    if args.write:
        report.publish(f"network-{args.split}", head, tables, args.write)
    return 0


def _played(group: str, names: Sequence[str], args: argparse.Namespace) -> Mapping[str, Runs]:
    if group in RECORDED:
        tasks = [Surface(task, shift=RECORDED[group]) for task in report.chosen_tasks(args)]
        studies = dict.fromkeys(names, args.seeds)
        return compare(tasks, studies, trials=args.trials, processes=args.processes)
    studies = dict.fromkeys(names, args.live_seeds)
    chosen = problems(group, args.split)[: args.tasks]
    return live.compare(chosen, studies, trials=args.trials, processes=args.processes)


if __name__ == "__main__":
    raise SystemExit(main())
