"""How far a verdict can be trusted: a panel of defended models beside AutoAttack.

Every model is trained by this command. A bound that is trusted and lies more than two points above
what another attack leaves is a false pass; doubt about a model that has nothing to hide is a false
doubt. Networks are kept in `--folder`, as safetensors, so that a second run only measures:

    python -m benchmarks.verdicts --quick
    python -m benchmarks.verdicts --folder networks
    python -m benchmarks.verdicts --folder networks --mnist mnist.npz --samples 200 --write
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from benchmarks.verdict.data import Images, digits, mnist
from benchmarks.verdict.panel import Pair, pairs
from benchmarks.verdict.reference import survivors
from rlhf_tune.progress import track
from rlhf_tune.safety import Measurement, RobustAccuracy

MARGIN = 0.02  # above the reference
_TIMED = 5  # clean passes
_QUICK = ("plain", "as Softmax layer", "plain: reversed gradients", "plain: thermometer")


@dataclass(frozen=True)
class Row:
    """What was found of a pair."""

    pair: Pair
    measured: Measurement
    reference: dict[str, float]
    passes: float

    @property
    def lowest(self) -> float:
        """Accuracy under the worst that others found."""
        return self.reference["all"]

    @property
    def false_pass(self) -> bool:
        """Whether a trusted bound is above that."""
        return self.measured.trusted and self.measured.interval[0] > self.lowest + MARGIN

    @property
    def false_doubt(self) -> bool:
        """Whether an honest model is doubted."""
        return self.pair.honest and not self.measured.trusted

    @property
    def gap(self) -> float:
        """How much more our attacks leave than AutoAttack does."""
        return self.measured.value - self.reference["autoattack"]


def measured(pair: Pair, images: Images, queries: int) -> Row:
    """Our verdict on a pair, the reference, and the time in units of a clean pass."""
    x, y = images.x_test, images.y_test
    began = time.perf_counter()
    found = RobustAccuracy(x, y, eps=pair.eps, at_least=0, full=True)(pair.model)
    taken = time.perf_counter() - began
    dtype = next((p.dtype for p in pair.model.parameters()), torch.float32)
    times = []
    with torch.no_grad():
        for _ in range(_TIMED):
            began = time.perf_counter()
            pair.model(x.to(dtype))
            times.append(time.perf_counter() - began)
    masks = survivors(pair, x, y, queries)
    reference = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return Row(pair, found, reference, taken / statistics.median(times))


def table_of(title: str, rows: Sequence[Row]) -> Table:
    """A line for each pair."""
    columns = ("model", "eps", "ours", "bound", "AutoAttack", "and adaptive", "verdict", "time")
    table = Table(*columns, title=title)
    for row in rows:
        wrong = "false pass: " if row.false_pass else "false doubt: " if row.false_doubt else ""
        found = row.measured
        why = "trusted" if found.trusted else found.reasons[0].partition(";")[0][:80]
        table.add_row(
            row.pair.name,
            f"{row.pair.eps:g}",
            f"{found.value:.3f}",
            f"{found.interval[0]:.3f}",
            f"{row.reference['autoattack']:.3f}",
            f"{row.lowest:.3f}",
            wrong + why,
            f"{row.passes:.0f}",
        )
    return table


def summary(rows: Sequence[Row]) -> str:
    """The counts that decide, in a sentence each."""
    passes = [f"{row.pair.name} at {row.pair.eps:g}" for row in rows if row.false_pass]
    doubts = [f"{row.pair.name} at {row.pair.eps:g}" for row in rows if row.false_doubt]
    gaps = {f"{r.pair.name} at {r.pair.eps:g}": r.gap for r in rows if r.pair.differentiable}
    worst = max(gaps, key=gaps.__getitem__) if gaps else "none"
    honest = sum(row.pair.honest for row in rows)
    return (
        f"{len(rows)} pairs. False passes: {len(passes)} ({', '.join(passes) or 'none'}). "
        f"False doubts: {len(doubts)} of {honest} honest ones ({', '.join(doubts) or 'none'}). "
        f"Largest gap to AutoAttack of a differentiable model: "
        f"{gaps.get(worst, 0.0):.3f} ({worst}). "
        f"Median time: {statistics.median(row.passes for row in rows):.0f} clean passes."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the panel; 1 where there is a false pass or a false doubt."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.verdicts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mnist", type=Path, help="MNIST too, from Keras' mnist.npz")
    parser.add_argument("--samples", type=int, default=400, help="held-out images (400)")
    parser.add_argument("--queries", type=int, default=5000, help="of AutoAttack's Square (5000)")
    parser.add_argument("--folder", type=Path, help="where networks are kept")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="pairs whose name has a word")
    parser.add_argument("--quick", action="store_true", help="four pairs of 100 digits")
    add_write(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(words)
    if args.quick:
        args.samples, args.queries = 100, 200
    sets = [digits(args.samples)]
    sets += [mnist(args.mnist, args.samples)] if args.mnist else []
    console, tables, notes, wrong = Console(), [], [], False
    for images in sets:
        wanted = _wanted(list(pairs(images, args.folder)), args)
        rows = [
            _shown(measured(pair, images, args.queries), console)
            for pair in track(wanted, images.name)
        ]
        tables.append(table_of(f"{images.name}, {len(images.y_test)} images", rows))
        notes.append(f"{images.name}: {summary(rows)}")
        console.print(tables[-1])
        console.print(notes[-1])
        wrong |= any(row.false_pass or row.false_doubt for row in rows)
    if args.write:
        head = f"`python -m benchmarks.verdicts {shlex.join(words)}`\n\n" + "\n\n".join(notes)
        publish("verdicts", head, tables, args.write)
    return int(wrong)


def _shown(row: Row, console: Console) -> Row:
    """A line as soon as it is known: the whole panel takes a quarter of an hour."""
    figures = f"{row.measured.value:.3f} ours, {row.lowest:.3f} theirs"
    console.print(f"{row.pair.name} at {row.pair.eps:g}: {figures}", soft_wrap=True)
    return row


def _wanted(panel: Sequence[Pair], args: argparse.Namespace) -> list[Pair]:
    if args.quick:
        return [pair for pair in panel if pair.name in _QUICK]
    return [p for p in panel if not args.only or any(word in p.name for word in args.only)]


if __name__ == "__main__":
    raise SystemExit(main())
