"""Compare samplers on recorded tasks: regret of the best trial so far after n trials.

Every method starts at the same point, the framework's default, and sees the same noisy
measurements: a trial looks up one of the recorded training seeds. Regret is judged on the mean
over seeds, so a lucky measurement earns little; "retrained" is stricter: what is recommended in
the end, trained with a seed that the study did not see there. Examples:

    python -m benchmarks.sampler                          # validation tasks, all methods
    python -m benchmarks.sampler --write                  # the same, into its page
    python -m benchmarks.sampler --methods random dqn --seeds 5 --trials 20
    python -m benchmarks.sampler --split train --tasks 10 # while designing
    python -m benchmarks.sampler --shift -1.4 0 1.4       # optimum moved by so many decades
    python -m benchmarks.sampler --objective accuracy     # maximised; "error" is minimised
    python -m benchmarks.sampler --unit -1000 7           # told -1000 x value + 7, maximised
    python -m benchmarks.sampler --dimensions 7 --trials 50
    python -m benchmarks.sampler --kind seven             # live problems of a kind, or of "all"

Methods that take seconds a study ("gp", "gp 2") play `--slow-seeds` studies a task. With `--keep
FOLDER` the studies of Optuna's samplers are kept there, and taken from there when a run is
repeated or goes on after an interrupt: GPSampler takes an hour on all test tasks.

With `--kind` the problems are those of `benchmarks.kinds`, which are trained while they are asked;
the last tables compare the kinds. Regret is then 0 at the best of 300 random settings, 1 at their
median; under constraints it counts feasible trials only. A folder to `--keep` must be emptied when
how they are trained changes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.common.report import add_write, chosen_tasks, publish
from benchmarks.common.report import parser as comparison
from benchmarks.kinds import report as kinds
from benchmarks.kinds.catalogue import KINDS
from benchmarks.studies import scores
from benchmarks.studies.methods import METHODS, OPTUNA, SLOW
from benchmarks.studies.seven import Seven
from benchmarks.studies.studies import Unit, compare
from benchmarks.studies.surfaces import Problem, Surface

ON_KINDS = ("random", "tpe", "gp", "gp 2", "cma-es", "no prior", "default", "dqn")
"""The methods that are compared on kinds of problems, if none are asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison, one shift after the other."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parsed(words)
    if args.kind:
        kinds.report(args, shlex.join(words))
        return 0
    for shift in args.shift:
        _report(args, shift, shlex.join(words))
    return 0


def _report(args: argparse.Namespace, shift: float, words: str) -> None:
    problems = _problems(args, shift)
    families = [problem.family for problem in problems]
    studies = {m: args.slow_seeds if m in SLOW else args.seeds for m in args.methods}
    results = compare(
        problems,
        studies,
        trials=args.trials,
        unit=_unit(args),
        processes=args.processes,
        keep=args.keep,
    )
    tables = [
        scores.regret(results, families),
        scores.ranks(results),
        scores.retrained(results, families),
    ]
    rivals = [method for method in results if method != args.ours]
    if args.ours in results and rivals:
        duels = scores.duels(results, families, args.ours, rivals)
        known = {rival: duel for rival, duel in duels.items() if rival in OPTUNA}
        tables += [
            scores.wins(duels, args.ours),
            scores.losses(known, args.ours),
            scores.closest(results, args.ours, rivals),
        ]
    head = (
        f"`python -m benchmarks.sampler {words}`: {len(problems)} {args.split} tasks of "
        f"{len(set(families))} families, {args.objective}, shifted by {shift:g} decades, "
        f"{args.dimensions} parameters."
    )
    console = Console()
    console.print(head)
    for table in tables:
        console.print(table)
    if args.write:
        name = _name(args, shift)
        scores.plot(results, args.write.parent / f"{name}.svg")
        publish(name, head, tables, args.write, f"{name}.svg")


def _problems(args: argparse.Namespace, shift: float) -> list[Problem]:
    surfaces = [Surface(t, objective=args.objective, shift=shift) for t in chosen_tasks(args)]
    return [Seven(surface) for surface in surfaces] if args.dimensions == 7 else list(surfaces)


def _unit(args: argparse.Namespace) -> Unit:
    """The unit asked for; of an accuracy, 1 - value, which is larger for better."""
    scale, offset = args.unit
    return Unit(-scale, scale + offset) if args.objective == "accuracy" else Unit(scale, offset)


def _name(args: argparse.Namespace, shift: float) -> str:
    """Names the block and the plot of a run by what it measures."""
    parts = ["sampler", args.split]
    parts += [args.objective] if args.objective != "loss" else []
    parts += [f"shift{shift:+g}"] if shift else []
    parts += ["unit"] if args.unit != [1.0, 0.0] else []
    parts += [f"{args.dimensions}d"] if args.dimensions != 2 else []
    return "-".join(parts)


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments, those refused that say nothing about the problems that are asked for."""
    parser = _parser()
    args = parser.parse_args(words)
    if not args.kind:
        args.methods = args.methods or list(METHODS)
        return args
    args.methods = args.methods or list(ON_KINDS)
    if args.split == "train":
        parser.error("kinds of problems have a validation and a test split, but no train split")
    for name in ("objective", "unit", "shift", "dimensions"):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is for recorded tasks; leave it out with --kind")
    if "portfolio" in args.methods:
        parser.error("the portfolio's points are of one space; leave it out with --kind")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = comparison("sampler", __doc__, METHODS)
    parser.set_defaults(methods=None)
    add = parser.add_argument
    add("--kind", choices=[*KINDS, "all"], help="live problems instead of recorded tasks")
    add("--seeds", type=int, default=10, help="studies a task (10)")
    add("--slow-seeds", type=int, default=1, help="studies a task of slow methods (1)")
    add("--trials", type=int, default=40, help="trials a study (40)")
    add("--objective", choices=["loss", "accuracy", "error"], default="loss")
    add("--unit", nargs=2, type=float, default=[1.0, 0.0], metavar=("SCALE", "OFFSET"))
    add("--shift", nargs="+", type=float, default=[0.0], metavar="DECADES")
    add("--dimensions", type=int, choices=[2, 7], default=2)
    add("--keep", type=Path, metavar="FOLDER", help="where studies of Optuna's samplers are kept")
    add("--ours", choices=list(METHODS), default="default", help="whose wins are counted")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
