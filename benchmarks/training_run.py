"""Compare ways to set the learning rate within one training run, at equal gradient steps.

Every method gets the same number of gradient steps (range tests, probes and what is rolled back
included), the same batches, and hands back its best state by the validation loss. Scored is the
accuracy on held-out data, as the gap to the best of 11 constant rates, which is known in hindsight
only. Methods that take an initial rate are given 1e-5 to 1 in turn. Beside them, and at as many
times the steps: searches by Optuna's TPE, and all 11 rates with the best chosen by validation loss.

The largest of 11 noisy scores lies above what any rate reaches on average. So with two seeds or
more there are two rows of hindsight without that luck: the rate that is best on held-out data for
the *other* seeds, kept constant, and as the start of our controller in place of its range test.

For example:

    python -m benchmarks.training_run                         # validation tasks, all methods
    python -m benchmarks.training_run --split train --tasks 12 --methods default constant
    python -m benchmarks.training_run --scales 0.1 10         # inputs scaled by so much
    python -m benchmarks.training_run --kind all              # runs of other kinds, by loss

With `--keep FILE` every run of a kind is written down as it ends, and not played again by the next
command; what another version of the project has played must be taken out of the file.

What the controller itself takes is measured by `benchmarks.training_run_overhead`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Column, Table

from benchmarks.common.report import add_write, mean_and_error, publish, standard_error
from benchmarks.recorded.sources import SOURCES
from benchmarks.runs import kind_report
from benchmarks.runs.kinds import KINDS
from benchmarks.runs.methods import METHODS, WITHOUT_TEST, constant, driven, tpe
from benchmarks.runs.problems import INITIAL_RATES, Problem, Task, problem, tasks
from rlhf_tune.errors import require
from rlhf_tune.progress import track

TPE = "TPE"
OURS = "default"
_EVERY_RATE = "11 constant rates"
_HINDSIGHT = "best rate of other seeds"
_HINDSIGHT_DRIVEN = "the same, driven"
_TPE_ROWS = {"TPE, 1 run": 1, **{f"TPE, {n} runs": n for n in (3, 5, 10, 20)}}
_WHOLE_RUNS = {  # what a row costs that takes more than one
    _HINDSIGHT: "hindsight",
    _HINDSIGHT_DRIVEN: "hindsight",
    _EVERY_RATE: "11",
    **{row: str(runs) for row, runs in _TPE_ROWS.items()},
}

Gaps = dict[str, NDArray[np.float64]]
"""By method: [seeds, initial rates], or [seeds, 1] where the initial rate is ignored."""


def gaps(
    job: tuple[Task, float],
    methods: Sequence[str],
    seeds: int,
    steps: int,
    data_dir: Path | None,
) -> Gaps:
    """The gap of each method to the best constant rate, on a task at a scale."""
    torch.set_num_threads(1)
    task, scale = job
    posed = problem(task, steps=steps, scale=scale, data_dir=data_dir)
    salt = zlib.crc32(posed.name.encode())
    numbers = [(salt + seed) % 2**31 for seed in range(seeds)]
    scores, losses = np.moveaxis(np.array([_constants(posed, n) for n in numbers]), 2, 0)
    chosen = np.take_along_axis(scores, losses.argmin(axis=1)[:, None], axis=1)
    result = {_EVERY_RATE: chosen, **_hindsight(posed, numbers, scores)}
    for name in methods:
        if name == TPE:
            found = np.array([tpe(posed, n, list(_TPE_ROWS.values())) for n in numbers])
            result |= {row: found[:, [i]] for i, row in enumerate(_TPE_ROWS)}
            continue
        method = METHODS[name]
        rates = INITIAL_RATES if method.takes_rate else (posed.usual_rate,)
        result[name] = np.array(
            [[posed.score(method.run(posed, rate, n)) for rate in rates] for n in numbers]
        )
    ceiling = scores.mean(axis=0).max()
    return {name: ceiling - reached for name, reached in result.items()}


def _constants(posed: Problem, seed: int) -> list[tuple[float, float]]:
    """Held-out accuracy and validation loss at each of the constant rates."""
    runs = (constant(posed, float(rate), seed) for rate in posed.rates)
    return [(posed.score(trainer), trainer.evaluate()["val_loss"]) for trainer in runs]


def _hindsight(posed: Problem, numbers: Sequence[int], scores: NDArray[np.float64]) -> Gaps:
    """Held-out accuracy, [seeds, 1], at the rate that is best for the other seeds; none for one."""
    if len(numbers) < 2:
        return {}
    best = [int(np.delete(scores, i, axis=0).mean(axis=0).argmax()) for i in range(len(numbers))]
    starts = posed.rates[best]
    runs = [driven(WITHOUT_TEST, posed, float(r), n) for r, n in zip(starts, numbers, strict=True)]
    return {
        _HINDSIGHT: np.take_along_axis(scores, np.array(best)[:, None], axis=1),
        _HINDSIGHT_DRIVEN: np.array([[posed.score(trainer)] for trainer in runs]),
    }


def summary(results: Sequence[Gaps]) -> Table:
    """Mean and standard error over tasks, and the worst of single runs."""
    table = Table(
        Column("method", no_wrap=True),
        "runs' worth of steps",
        "gap",
        "worst decile",
        "worst",
        "by initial rate, 1e-5 to 1",
        title="gap to the best constant rate in hindsight: mean ± s.e. over tasks; of single runs",
    )
    for name in results[0]:
        runs = np.concatenate([result[name].ravel() for result in results])
        by_rate = _per_task(results, name).mean(axis=0)
        table.add_row(
            name,
            _WHOLE_RUNS.get(name, "1"),
            mean_and_error(_per_task(results, name).mean(axis=1)),
            f"{np.quantile(runs, 0.9):.3f}",
            f"{runs.max():.3f}",
            " ".join(f"{gap:.3f}" for gap in by_rate) if len(by_rate) > 1 else "ignored",
        )
    return table


def against(results: Sequence[Gaps], families: Sequence[str], ours: str = OURS) -> Table:
    """By how much a method is ahead of each rival, paired by task."""
    table = Table(
        Column("rival", no_wrap=True),
        "difference",
        "in s.e.",
        "s.e. over families",
        "at the rival's best initial rate",
        title=f"gap of the rival minus gap of '{ours}', paired: mean ± s.e. over tasks",
    )
    own = _per_task(results, ours).mean(axis=1)
    for name in results[0]:
        if name == ours:
            continue
        theirs = _per_task(results, name)
        difference = theirs.mean(axis=1) - own
        by_family = [
            difference[np.array(families) == family].mean() for family in sorted(set(families))
        ]
        at_best = theirs[:, theirs.mean(axis=0).argmin()] - own
        table.add_row(
            name,
            mean_and_error(difference),
            _in_errors(difference),
            f"{standard_error(np.array(by_family)):.3f}",
            mean_and_error(at_best) if theirs.shape[1] > 1 else "",
        )
    return table


def _in_errors(difference: NDArray[np.float64]) -> str:
    """A mean in standard errors; nothing where there is no error to count in."""
    error = standard_error(difference)
    return f"{difference.mean() / error:+.1f}" if error > 0 else "-"


def _per_task(results: Sequence[Gaps], name: str) -> NDArray[np.float64]:
    """[tasks, initial rates] means over seeds."""
    return np.array([result[name].mean(axis=0) for result in results])


def available(asked: Sequence[str] | None, console: Console) -> list[str]:
    """The methods to compare: those asked for, else those whose packages are installed.

    Raises:
        MissingExtraError: If one is asked for whose package is missing.
    """
    for name in asked or ():
        if name in METHODS and (package := METHODS[name].package):
            require(package, extra=METHODS[name].extra)
    if asked:
        return list(asked)
    missing = [name for name, m in METHODS.items() if m.package and not find_spec(m.package)]
    if missing:
        console.print(
            f"left out: {', '.join(missing)}; to compare them too, run: "
            f"pip install 'rlhf-tune\\[benchmarks]'"
        )
    return [name for name in (*METHODS, TPE) if name not in missing]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _arguments(words)
    if args.kind:
        asked = [b for a, b in pairwise(["", *words]) if "--keep" not in (a, b)]
        kind_report.report(args, shlex.join(asked))
        return 0
    console = Console()
    methods = available(args.methods, console)
    chosen = tasks(args.split, files=args.data_dir is not None, count=args.tasks)
    jobs = list(product(chosen, args.scales))
    fixed = {"seeds": args.seeds, "steps": args.steps, "data_dir": args.data_dir}
    work = partial(gaps, methods=methods, **fixed)
    with ProcessPoolExecutor(args.processes) as pool:
        results = list(track(pool.map(work, jobs), "tasks", len(jobs)))
    families = [SOURCES[source].family for (source, _), _ in jobs]
    tables = [summary(results)]
    if OURS in methods:
        tables.append(against(results, families))
    for table in tables:
        console.print(table)
    if args.write:
        name = args.block or f"training_run-{args.split}"
        if args.scales != [1.0]:
            name += "-scales-" + "-".join(f"{scale:g}" for scale in args.scales)
        head = (
            f"`python -m benchmarks.training_run {shlex.join(words)}`: {len(chosen)} "
            f"{args.split} tasks of {len(set(families))} families, {args.steps} gradient steps."
        )
        publish(name, head, tables, args.write)
    return 0


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    """Those of the command line, which exits where they do not go together."""
    parser = _parser()
    args = parser.parse_args(words)
    known = kind_report.PLAYS if args.kind else (*METHODS, TPE)
    if args.methods and (unknown := sorted({*args.methods} - {*known})):
        parser.error(f"--methods must be among {', '.join(known)} here, but got {unknown}")
    if args.kind and args.split == "train":
        parser.error("--kind has validation and test tasks, but got --split train")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--split", choices=["train", "validation", "test"], default="validation")
    add("--kind", choices=[*KINDS, "all"], help="runs of this kind in place of recorded tasks")
    add("--methods", nargs="+", metavar="METHOD", help="(all that are installed)")
    add("--tasks", type=int, help="a random subset of so many tasks (all)")
    add("--seeds", type=int, default=2, help="runs a task, method and rate (2)")
    add("--steps", type=int, default=600, help="gradient steps of a run (600)")
    add("--scales", type=float, nargs="+", default=[1.0], help="factors on the inputs (1)")
    add("--data-dir", type=Path, help="folder of mnist.npz, adult.csv.gz, ... (left out)")
    add("--keep", type=Path, metavar="FILE", help="where runs of --kind are kept, to go on later")
    add("--processes", type=int, default=2, help="tasks side by side (2)")
    add("--block", help="name of the block that --write fills (training_run-SPLIT)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
