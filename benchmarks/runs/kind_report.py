"""What comparisons on kinds of runs come to: a table of each kind, and one of all of them."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from benchmarks.common.report import mean_and_error, publish
from benchmarks.runs import kept
from benchmarks.runs.kept import Outcome, Run
from benchmarks.runs.kinds import KINDS, KindProblem, Spec, problem, tasks
from benchmarks.runs.methods import (
    constant,
    cosine,
    drive,
    one_cycle,
    plateau,
    scheduled,
    searched,
)
from rlhf_tune.progress import track
from rlhf_tune.run.policies import POLICIES, RunPolicy
from rlhf_tune_integrations.pytorch import TorchTrainer

OURS = "default"
_TUNED = 10  # runs of TPE
_BOLD = 10.0  # of OneCycle, relative to the framework's default rate


Play = Callable[[KindProblem, int], Outcome]
Outcomes = Mapping[str, NDArray[np.float64]]
"""By method: [seeds, 3], the columns as in `Outcome`."""


def _rival(train: Callable[[KindProblem, float, int], TorchTrainer], times: float = 1.0) -> Play:
    def play(posed: KindProblem, seed: int) -> Outcome:
        return Outcome(*posed.scores(train(posed, times * posed.usual_rate, seed)), 0)

    return play


def _best_rate(posed: KindProblem, seed: int) -> Outcome:
    """The best by validation loss of five constant rates."""
    trained = [constant(posed, float(rate), seed) for rate in posed.rates]
    best = min(trained, key=lambda trainer: trainer.evaluate()["val_loss"])
    return Outcome(*posed.scores(best), 0)


def _tuned(posed: KindProblem, seed: int) -> Outcome:
    """The best by validation loss of ten runs, whose rates TPE proposes."""
    return Outcome(*posed.scores(searched(posed, seed, [_TUNED])[0]), 0)


def _driven(policy: str | RunPolicy) -> Play:
    def play(posed: KindProblem, seed: int) -> Outcome:
        trainer = posed.trainer(posed.usual_rate, seed)
        history = drive(policy, trainer, posed)
        return Outcome(*posed.scores(trainer), len(history.discarded))

    return play


PLAYS: dict[str, Play] = {
    "constant": _rival(constant),
    "cosine": _rival(partial(scheduled, cosine)),
    "ReduceLROnPlateau": _rival(plateau),
    "OneCycle, x 10": _rival(partial(scheduled, one_cycle), _BOLD),
    "best of 5 rates": _best_rate,
    "TPE, 10 runs": _tuned,
    "unguarded": _driven(replace(POLICIES["default"], guard=None)),
    "default, fewer epochs": lambda posed, seed: _driven("default")(posed.fewer(), seed),
    "default": _driven("default"),
}
"""Rivals, our default without its guard and in a shorter run, and our default."""

WHOLE_RUNS = {"best of 5 rates": 5, "TPE, 10 runs": _TUNED}
"""How many a method takes, where it takes more than one."""


def played(spec: Spec, method: str, seed: int, data_dir: Path | None) -> Outcome:
    """A run on a task; seeds are counted from 0, and are others on every task."""
    torch.set_num_threads(1)
    salt = zlib.crc32(spec.name.encode())
    return PLAYS[method](problem(spec, data_dir), (salt + seed) % 2**31)


def outcomes(specs: Sequence[Spec], args: argparse.Namespace) -> list[Outcomes]:
    """All runs on some tasks, side by side; those in the file `args.keep` are not played again."""
    methods, seeds = args.methods or list(PLAYS), range(args.seeds)
    done = kept.read(args.keep)
    # What is whole runs' worth of steps begins first, so that the last ones end together.
    for_long = sorted(methods, key=lambda name: -WHOLE_RUNS.get(name, 1))
    todo = [
        (spec, run)
        for name in for_long
        for spec in specs
        for seed in seeds
        if (run := Run(spec.name, name, seed)) not in done
    ]
    pool = ProcessPoolExecutor(args.processes)
    runs = {pool.submit(played, s, r.method, r.seed, args.data_dir): r for s, r in todo}
    try:
        for ended in track(as_completed(runs), "runs", len(runs)):
            done[runs[ended]] = ended.result()
            kept.add(args.keep, runs[ended], ended.result())
    finally:
        pool.shutdown(cancel_futures=True)
    return [
        {name: np.array([done[Run(s.name, name, seed)] for seed in seeds]) for name in methods}
        for s in specs
    ]


def table_of(title: str, results: Sequence[Outcomes]) -> Table:
    """Means over seeds and tasks; of the loss also the paired difference from ours."""
    table = Table(
        Column("method", no_wrap=True), "loss", f"loss less that of '{OURS}'", "accuracy", "rolled"
    )
    table.title = f"{title}: held-out loss, mean ± s.e. over {len(results)} tasks"
    for name in results[0]:
        loss, accuracy, rolled = _per_task(results, name).T
        paired = mean_and_error(loss - _per_task(results, OURS)[:, 0]) if OURS in results[0] else ""
        row = [mean_and_error(loss), "" if name == OURS else paired]
        table.add_row(name, *row, f"{accuracy.mean():.3f}", f"{rolled.mean():.1f}")
    return table


def table_of_tasks(specs: Sequence[Spec], results: Sequence[Outcomes]) -> Table:
    """By task: loss and stretches rolled back of ours, and how far behind it others are."""
    others = [name for name in results[0] if name != OURS]
    table = Table("task", f"'{OURS}'", "rolled", *others)
    table.title = "each task: held-out loss, that of others less ours; mean ± s.e. over seeds"
    for spec, result in zip(specs, results, strict=True):
        ours = result[OURS]
        behind = [mean_and_error(result[name][:, 0] - ours[:, 0]) for name in others]
        table.add_row(spec.name, mean_and_error(ours[:, 0]), f"{ours[:, 2].mean():.1f}", *behind)
    return table


def _per_task(results: Sequence[Outcomes], name: str) -> NDArray[np.float64]:
    """[tasks, 3] means over seeds."""
    return np.array([result[name].mean(axis=0) for result in results])


def report(args: argparse.Namespace, words: str) -> None:
    """Play the kinds that are asked for, and print the table of each and of all.

    Args:
        args: Those of `python -m benchmarks.training_run`.
        words: The command line, for the head of what is written: without what changes no figure.
    """
    console = Console()
    kinds = KINDS if args.kind == "all" else (args.kind,)
    files = args.data_dir is not None
    chosen = [spec for kind in kinds for spec in tasks(kind, args.split, files=files)[: args.tasks]]
    results = outcomes(chosen, args)
    by_kind = [
        (kind, [each for spec, each in zip(chosen, results, strict=True) if spec.kind == kind])
        for kind in kinds
    ]
    tables = [table_of(kind, its) for kind, its in by_kind if its]
    if len(tables) > 1:
        tables.append(table_of("all kinds", results))
    elif OURS in results[0]:
        tables.append(table_of_tasks(chosen, results))
    for table in tables:
        console.print(table)
    if args.write:
        head = f"`python -m benchmarks.training_run {words}`: {args.seeds} seeds a task."
        publish(f"training_run-kinds-{args.split}-{args.kind}", head, tables, args.write)
