"""What comparisons on kinds of problems come to: tables of each kind, and one of all of them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import mean_and_error, publish
from benchmarks.kinds.catalogue import CONSTRAINED, KINDS, problems
from benchmarks.kinds.problems import Live
from benchmarks.kinds.studies import KindRuns, compare
from benchmarks.studies import scores
from benchmarks.studies.methods import OPTUNA, SLOW
from benchmarks.studies.studies import Runs, checkpoints

Results = Mapping[str, KindRuns]


def report(args: argparse.Namespace, words: str) -> None:
    """Play the kinds that are asked for, print the tables of each, then the summary.

    Args:
        args: Those of `python -m benchmarks.sampler`.
        words: The command line, for the head of what is written.
    """
    console = Console()
    kinds = list(KINDS) if args.kind == "all" else [args.kind]
    studies = {m: args.slow_seeds if m in SLOW else args.seeds for m in args.methods}
    head = f"`python -m benchmarks.sampler {words}`: live problems, {args.split}."
    console.print(head)
    played: dict[str, Results] = {}
    tables: list[Table] = []
    for kind in kinds:
        chosen = problems(kind, args.split)[: args.tasks]
        played[kind] = compare(
            chosen, studies, trials=args.trials, processes=args.processes, keep=args.keep
        )
        for table in _tables(kind, chosen, played[kind], args.ours):
            table.title = f"{kind}: {table.title}"
            console.print(table)
            tables.append(table)
    for table in summary(played, args.ours):
        console.print(table)
        tables.append(table)
    if args.write:
        shorter = "" if args.trials == 40 else f"-{args.trials}"
        publish(f"sampler-kinds-{args.split}-{args.kind}{shorter}", head, tables, args.write)


def _tables(kind: str, chosen: Sequence[Live], results: Results, ours: str) -> Iterator[Table]:
    families = [problem.family for problem in chosen]
    yield scores.regret(results, families)
    yield scores.ranks(results)
    yield safety(results) if kind in CONSTRAINED else scores.retrained(results, families)
    rivals = [method for method in results if method != ours]
    if ours in results and rivals:
        duels = scores.duels(results, families, ours, rivals)
        known = {rival: duel for rival, duel in duels.items() if rival in OPTUNA}
        yield scores.wins(duels, ours)
        yield scores.losses(known, ours)
        yield scores.closest(results, ours, rivals)


def safety(results: Results) -> Table:
    """Unsafe trials, the share of studies with nothing feasible, and regret."""
    points = _checkpoints(results)
    title = "unsafe of all trials played / share of studies with nothing feasible / regret"
    table = Table("method", *(f"after {n}" for n in points), title=title)
    for method, runs in results.items():
        unsafe, regret = runs.unsafe.mean(axis=(0, 1)), runs.regret.mean(axis=(0, 1))
        played = runs.played.mean(axis=(0, 1))
        nothing = 1 - runs.feasible.mean(axis=(0, 1))
        rows = [n - 1 for n in points]
        table.add_row(
            method,
            *(
                f"{unsafe[n]:.2f} of {played[n]:.1f} / {nothing[n]:.2f} / {regret[n]:.3f}"
                for n in rows
            ),
        )
    return table


def summary(played: Mapping[str, Results], ours: str) -> list[Table]:
    """Kind x method, all kinds together, and the kinds that `ours` won, tied and lost."""
    some = next(iter(played.values()))
    points = _checkpoints(some)
    table = Table("kind", "method", *(f"after {n}" for n in points))
    table.title = "regret: mean ± s.e. over problems"
    for kind, results in played.items():
        for method, runs in results.items():
            cells = (mean_and_error(scores.after(runs, n)) for n in points)
            table.add_row(kind, method, *cells)
    names = [kind for kind, results in played.items() for _ in _any(results).regret]
    every = {method: _joined([results[method] for results in played.values()]) for method in some}
    tables = [table]
    if len(played) > 1:
        tables.append(scores.regret(every, names))
        tables[-1].title = "regret on all kinds: mean ± s.e. over problems (over kinds)"
    rivals = [method for method in some if method != ours]
    if ours in some and rivals:
        duels = scores.duels(every, names, ours, rivals)
        tables += [scores.wins(duels, ours), scores.losses(duels, ours)]
        tables[
            -2
        ].title = (
            f"kinds won / tied / lost by {ours!r}, by more than one s.e. of the paired difference"
        )
        tables[-1].title = f"kinds that {ours!r} lost: by how much regret"
    return tables


def _any(results: Results) -> KindRuns:
    """Of any method: all have the same problems."""
    return next(iter(results.values()))


def _joined(runs: Sequence[KindRuns]) -> Runs:
    """The problems of several kinds as if they were of one."""
    regret = np.concatenate([each.regret for each in runs])
    return Runs(regret, np.empty((*regret.shape[:2], 0)))


def _checkpoints(results: Results) -> list[int]:
    return checkpoints(_any(results).regret.shape[-1])
