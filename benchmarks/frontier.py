"""What caution costs: unsafe trials against regret, over price and confidence.

Robust accuracy on recorded tasks (two percentiles of `benchmarks.safety`) and the constrained kinds
of live problems, 20 trials a study. The defaults of `DQNSampler` are chosen from this on validation
tasks. Examples:

    python -m benchmarks.frontier                        # validation, all prices and confidences
    python -m benchmarks.frontier --tasks 20 --seeds 1   # sooner
    python -m benchmarks.frontier --write                # the tables and the picture into the page
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import safety
from benchmarks.common.report import add_write, chosen_tasks, mean_and_error, publish
from benchmarks.common.report import parser as comparison
from benchmarks.kinds import studies as live
from benchmarks.kinds.catalogue import problems
from benchmarks.studies import methods
from rlhf_tune import DQNSampler, files

PRICES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1)
CONFIDENCES = (0.0, 0.3, 0.5, 0.8)
KINDS = ("costs", "fine_tuning")
TRIALS = 20

Point = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Unsafe trials [P] and regret [P] of P problems."""


def _sampler(price: float, confidence: float, seed: int) -> DQNSampler:
    return DQNSampler(price=price, confidence=confidence, seed=seed)


SETTINGS = {
    f"price {price:g}, confidence {confidence:g}": partial(_sampler, price, confidence)
    for price in PRICES
    for confidence in CONFIDENCES
    if confidence == 0.5 or price in (0.0, 0.01, 0.05)
}
safety.METHODS.update(SETTINGS)
methods.METHODS.update(SETTINGS)


def recorded(args: argparse.Namespace, percentile: float) -> dict[str, Point]:
    """On the recorded tasks."""
    every = [safety.Landscape(task, percentile) for task in chosen_tasks(args)]
    kept = [landscape for landscape in every if landscape.meaningful]
    found = safety.compare(
        kept, args.methods, seeds=args.seeds, trials=TRIALS, processes=args.processes
    )
    return {
        method: (
            np.array([np.mean([o.unsafe for o in row]) for row in rows]),
            np.array([np.mean([o.regret for o in row]) for row in rows]),
        )
        for method, rows in found.items()
    }


def trained(args: argparse.Namespace, kind: str) -> dict[str, Point]:
    """On live problems of a kind."""
    chosen = problems(kind, args.split)[: args.tasks]
    found = live.compare(
        chosen, dict.fromkeys(args.methods, args.seeds), trials=TRIALS, processes=args.processes
    )
    return {
        method: (runs.unsafe[..., -1].mean(axis=1), runs.regret[..., -1].mean(axis=1))
        for method, runs in found.items()
    }


def table(title: str, points: Mapping[str, Point]) -> Table:
    """Mean and standard error over problems."""
    found = Table("setting", "unsafe", "regret", title=f"{title}: {TRIALS} trials")
    for name, (unsafe, regret) in points.items():
        found.add_row(name, mean_and_error(unsafe), mean_and_error(regret))
    return found


def plot(every: Mapping[str, Mapping[str, Point]], path: Path) -> None:
    """Unsafe trials against regret, a panel for each kind, a line for each confidence."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(every), 4), layout="constrained")
    for place, (title, points) in enumerate(every.items()):
        axes = figure.add_subplot(1, len(every), place + 1)
        for confidence in CONFIDENCES:
            line = [name for name in points if name.endswith(f"confidence {confidence:g}")]
            at = np.array([[part.mean() for part in points[name]] for name in line])
            if not len(at):
                continue
            axes.plot(at[:, 0], at[:, 1], "o-", label=f"confidence {confidence:g}", markersize=4)
            for name, (x, y) in zip(line, at, strict=True):
                axes.annotate(name.split(",")[0].removeprefix("price "), (x, y), fontsize=7)
        axes.set(title=title, xlabel="unsafe trials", ylabel="regret" if place == 0 else "")
    axes.legend(fontsize="small", title="at each point: the price")
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "frontier"}),
        files.whole(path) as partial,
    ):
        figure.savefig(partial, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, one kind after the other."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    console = Console()
    every: dict[str, dict[str, Point]] = {}
    for percentile in args.percentiles:
        every[f"robust accuracy, percentile {percentile:g}"] = recorded(args, percentile)
    for kind in args.kinds:
        every[kind] = trained(args, kind)
    tables = [table(title, points) for title, points in every.items()]
    for each in tables:
        console.print(each)
    if args.write:
        picture = args.write.parent / f"frontier-{args.split}.svg"
        plot(every, picture)
        head = f"`python -m benchmarks.frontier {shlex.join(words)}`"
        publish(f"frontier-{args.split}", head, tables, args.write, picture.name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = comparison("frontier", __doc__, SETTINGS)
    add = parser.add_argument
    add("--seeds", type=int, default=2, help="studies a problem (2)")
    add("--percentiles", nargs="*", type=float, default=[40, 80], help="of FGSM accuracies (40 80)")
    add("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
