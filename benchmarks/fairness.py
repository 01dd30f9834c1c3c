"""Accuracy against the gap between groups: `fair_weight` beside fairlearn's reductions.

Each method trains on the same people, and is judged on others. "Ours" are runs whose weight stays,
and one run under a ceiling (`reach=True`), which is certified on people who steered nothing;
fairlearn's are ExponentiatedGradient and ThresholdOptimizer over logistic regressions. At each gap
that ExponentiatedGradient reached, the accuracy of our frontier there is compared with its own.
Without tables the people are drawn; tables are read from a folder:

    python -m benchmarks.fairness
    python -m benchmarks.fairness --data-dir tables --tables adult loanapp german_credit --seeds 5
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, mean_and_error, publish
from examples import credit
from examples.credit import People, Point
from rlhf_tune.errors import TooFewSamplesError
from rlhf_tune.progress import track

CEILINGS = (0.1, 0.05)


@dataclass(frozen=True)
class Source:
    """How a table is read: its file, the column of decisions, the benefit, the groups."""

    file: str
    label: str
    positive: str
    sensitive: str
    drop: tuple[str, ...] = ()


SOURCES = {
    "adult": Source("adult.csv.gz", "income-per-year", ">50K", "sex", ("fnlwgt", "education")),
    "loanapp": Source(
        "loanapp.csv", "approve", "1", "black", ("rownames", "action", "reject", "white")
    ),
    "german_credit": Source("german_credit.csv", "class-label", "1", "sex"),
}


@dataclass(frozen=True)
class Found:
    """Of one seed: every method's point, and of the runs under a ceiling whether certified."""

    points: Sequence[Point]
    certified: dict[float, bool]

    def named(self, start: str) -> list[Point]:
        """The points of methods whose names begin so."""
        return [point for point in self.points if point.method.startswith(start)]

    @property
    def ahead(self) -> float:
        """Our accuracy at the gaps that ExponentiatedGradient reached, less its own, on the mean.

        Of its points those count that lie within the gaps of our frontier.
        """
        ours = self.named("weight")
        low, high = min(p.gap for p in ours), max(p.gap for p in ours)
        theirs = [p for p in self.named("Exponentiated") if low <= p.gap <= high]
        return float(np.mean([credit.at_gap(ours, p.gap) - p.accuracy for p in theirs] or [0.0]))


def people_of(name: str, folder: Path | None, most: int) -> People:
    """The people of a table, a random choice of so many; drawn ones where it is "drawn"."""
    if name == "drawn" or folder is None:
        return credit.drawn(most)
    source = SOURCES[name]
    every = credit.read(
        folder / source.file, source.label, source.positive, source.sensitive, source.drop
    )
    rows = np.random.default_rng(0).permutation(len(every.y))[:most]
    return People(every.x[rows], every.y[rows], every.group[rows])


def play(people: People, seed: int, steps: int) -> Found:
    """Every method, on one division of the people."""
    points = [*credit.fixed(people, seed, steps), *credit.fairlearn_s(people, seed)]
    test, certified = people.divided(seed)[-1], {}
    for ceiling in CEILINGS:
        try:
            model, kept, _ = credit.reached(people, seed, steps, ceiling)
        except TooFewSamplesError:
            continue
        selected = credit.predicted(model, people.x[test])
        points.append(credit.judged(people, test, selected, f"reach=True, {ceiling:g}")[0])
        certified[ceiling] = kept
    return Found(points, certified)


def table(name: str, found: Sequence[Found]) -> Table:
    """Means over seeds, with standard errors."""
    result = Table("method", "accuracy", "gap", "certified", "held", title=f"{name}")
    methods = dict.fromkeys(point.method for one in found for point in one.points)
    for method in methods:
        points = [point for one in found for point in one.points if point.method == method]
        accuracy, gap = (
            mean_and_error(np.array([getattr(point, what) for point in points]))
            for what in ("accuracy", "gap")
        )
        certified = held = ""
        if method.startswith("reach"):
            ceiling = float(method.split(" ")[1])
            pairs = [(one.certified[ceiling], one.named(method)[0].gap) for one in found]
            kept = [gap_of for good, gap_of in pairs if good]
            certified = f"{len(kept)} of {len(pairs)}"
            held = f"{sum(gap_of <= ceiling for gap_of in kept)} of {len(kept)}"
        result.add_row(method, accuracy, gap, certified, held)
    return result


def verdict(name: str, found: Sequence[Found]) -> str:
    """Whether our frontier is behind."""
    ahead = mean_and_error(np.array([one.ahead for one in found]))
    return f"{name}: at equal gaps ahead of ExponentiatedGradient by {ahead} of accuracy"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each source, and whether our frontier is behind."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(words)
    torch.set_num_threads(1)
    names = args.tables if args.data_dir is not None else ["drawn"]
    jobs = [(name, seed) for name in names for seed in range(args.seeds)]
    found: dict[str, list[Found]] = {name: [] for name in names}
    for name, seed in track(jobs, "runs", len(jobs)):
        found[name].append(play(people_of(name, args.data_dir, args.people), seed, args.steps))
    tables = [table(name, of) for name, of in found.items()]
    said = "; ".join(verdict(name, of) for name, of in found.items())
    for each in tables:
        Console().print(each)
    Console().print(said)
    if args.write:
        shown = ["FOLDER" if word == str(args.data_dir) else word for word in words]
        head = (
            f"`python -m benchmarks.fairness {shlex.join(shown)}`, {args.seeds} seeds. {said}. "
            f"A ceiling is certified with people of the same kind; *held* counts where the gap "
            f"among the people not seen keeps it too."
        )
        publish(f"fairness-{'-'.join(names)}", head, tables, args.write)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", type=Path, metavar="FOLDER", help="of the tables; else people are drawn")
    add("--tables", nargs="+", choices=list(SOURCES), default=["adult"], help="(adult)")
    add("--seeds", type=int, default=5, help="divisions of the people (5)")
    add("--people", type=int, default=16_000, help="at most, of a table (16,000)")
    add("--steps", type=int, default=2400, help="of each run, of 64 people (2400)")
    add_write(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
