"""What comparisons on kinds of runs come to: a table of each kind, and one of all of them."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from benchmarks.common.report import mean_and_error, publish
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


class Outcome(NamedTuple):
    """Of one run: loss and accuracy on held-out rows, and the stretches that were rolled back."""

    loss: float
    accuracy: float
    rolled_back: int


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
    "default": _driven("default"),
}
"""Rivals, our default without its guard, and our policies."""


def outcomes(spec: Spec, methods: Sequence[str], seeds: int, data_dir: Path | None) -> Outcomes:
    """All runs on a task."""
    torch.set_num_threads(1)
    posed = problem(spec, data_dir)
    numbers = [(zlib.crc32(spec.name.encode()) + seed) % 2**31 for seed in range(seeds)]
    return {name: np.array([PLAYS[name](posed, n) for n in numbers]) for name in methods}


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


def _per_task(results: Sequence[Outcomes], name: str) -> NDArray[np.float64]:
    """[tasks, 3] means over seeds."""
    return np.array([result[name].mean(axis=0) for result in results])


def report(args: argparse.Namespace, words: str) -> None:
    """Play the kinds that are asked for, and print the table of each and of all.

    Args:
        args: Those of `python -m benchmarks.training_run`.
        words: The command line, for the head of what is written.
    """
    console = Console()
    kinds = KINDS if args.kind == "all" else (args.kind,)
    methods = args.methods or list(PLAYS)
    files = args.data_dir is not None
    chosen = [spec for kind in kinds for spec in tasks(kind, args.split, files=files)[: args.tasks]]
    work = partial(outcomes, methods=methods, seeds=args.seeds, data_dir=args.data_dir)
    with ProcessPoolExecutor(args.processes) as pool:
        played = list(track(pool.map(work, chosen), "tasks", len(chosen)))
    by_kind = [
        (kind, [result for spec, result in zip(chosen, played, strict=True) if spec.kind == kind])
        for kind in kinds
    ]
    tables = [table_of(kind, results) for kind, results in by_kind if results]
    if len(tables) > 1:
        tables.append(table_of("all kinds", played))
    for table in tables:
        console.print(table)
    if args.write:
        head = f"`python -m benchmarks.training_run {words}`: {args.seeds} seeds a task."
        publish(f"training_run-kinds-{args.split}-{args.kind}", head, tables, args.write)
