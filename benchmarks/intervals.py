"""How often the bound that decides a constraint is wrong, by simulation, for every kind of bound.

A floor is granted wrongly if the lower bound lies above the truth, a ceiling if the upper bound
lies below it. Both may happen in at most one of 1 / (1 - confidence) measurements:

    python -m benchmarks.intervals
    python -m benchmarks.intervals --quick
    python -m benchmarks.intervals --confidence 0.9 0.99 --write
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.common.report import add_write, publish
from rlhf_tune.progress import track
from rlhf_tune.safety import Constraint, by_group, constraint
from rlhf_tune.safety.gaps import gap
from rlhf_tune.safety.intervals import difference_interval, mean_interval, proportion_interval
from rlhf_tune.safety.leakage import tail_interval

SIZES = (20, 50, 100, 200, 500, 1000, 2000)
REPEATS = 2000

Interval = tuple[float, float]
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@dataclass(frozen=True)
class Kind:
    """A kind of bound on data whose truth is known.

    Attributes:
        truth: What the bounds should hold.
        measure: From a random stream, n and the confidence to an interval; None where no bound is
            given, which is no error.
        share: That of successes, where all that matters is how many there are: all counts are
            then tried, and nothing is simulated.
    """

    truth: float
    measure: Callable[[np.random.Generator, int, float], Interval | None]
    share: float | None = None


def kinds() -> dict[str, Kind]:
    """Every kind of bound that decides a constraint, by name."""
    return {
        **{f"proportion, {p:g}": _proportion(p) for p in (0.01, 0.3, 0.9, 0.99)},
        "difference of paired shares, .1 and .1": _difference(0.1, 0.1),
        "difference of paired shares, .02 and .3": _difference(0.02, 0.3),
        "mean within a range, uniform": _mean(0.5, lambda rng, n: rng.random(n)),
        "mean within a range, one in 20": _mean(0.05, lambda rng, n: rng.random(n) < 0.05),
        "mean within a range, skewed": _mean(1 / 11, lambda rng, n: rng.beta(0.2, 2.0, n)),
        "mean within a range, constant": _mean(0.7, lambda _, n: np.full(n, 0.7)),
        "mean without a range, normal": _unknown(0.0, lambda rng, n: rng.normal(size=n)),
        "mean without a range, exponential": _unknown(1.0, lambda rng, n: rng.exponential(size=n)),
        "mean without a range, lognormal": _unknown(
            math.exp(0.5), lambda rng, n: rng.lognormal(size=n)
        ),
        "mean without a range, uniform": _unknown(0.5, lambda rng, n: rng.random(n)),
        "mean without a range, one in ten large": _unknown(0.195, _one_in_ten),
        "mean without a range, nearly 1 or 0": _unknown(0.995 * 0.99, _nearly_right),
        "leakage, as many members": _leakage(lambda n: n, 0.0),
        "leakage, 20 members": _leakage(lambda _: 20, 1.0),
        "leakage, ten times the members": _leakage(lambda n: 10 * n, 2.0),
        "gap of two groups": _gap((0.3, 0.2), (0.5, 0.5)),
        "gap of two groups, one small, near 1": _gap((0.98, 0.7), (0.1, 0.9)),
        "gap of five groups, two apart": _gap((0.5, 0.5, 0.5, 0.5, 0.3), (0.2,) * 5),
        "gap of five equal groups": _gap((0.1,) * 5, (0.2,) * 5),
        "the worse of two floors": _worse(0.8, 0.8),
        "the worst of five groups": _groups(0.8),
    }


def _proportion(share: float) -> Kind:
    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        return proportion_interval(int(rng.binomial(n, share)), n, confidence)

    return Kind(share, measure, share)


def _difference(gained: float, lost: float) -> Kind:
    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        up, down, _ = rng.multinomial(n, [gained, lost, 1 - gained - lost])
        return difference_interval(int(up), int(down), n, confidence)

    return Kind(gained - lost, measure)


def _mean(truth: float, draw: Draw) -> Kind:
    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        return mean_interval(np.asarray(draw(rng, n), dtype=np.float64), confidence, 0, 1)

    return Kind(truth, measure)


def _unknown(truth: float, draw: Draw) -> Kind:
    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval | None:
        values = draw(rng, n)
        rule = constraint("m", lambda _: values, at_least=0, confidence=confidence)
        found = rule(None)
        return found.interval if found.trusted else None

    return Kind(truth, measure)


def _one_in_ten(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    large = rng.random(n) < 0.1
    return np.where(large, 1 + rng.random(n), 0.1 * rng.random(n))


def _nearly_right(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Shares of a sample that are right: .98 to 1, but nought for one in 200."""
    return np.where(rng.random(n) < 0.005, 0.0, 0.98 + 0.02 * rng.random(n))


def _leakage(members: Callable[[int], int], shift: float) -> Kind:
    """Scores of members are normal, those of others are lower by `shift`."""
    from scipy.stats import norm

    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        return tail_interval(rng.normal(size=members(n)), rng.normal(-shift, size=n), confidence)

    return Kind(float(norm.cdf(norm.ppf(0.01) + shift)), measure)


def _gap(rates: Sequence[float], shares: Sequence[float]) -> Kind:
    """The largest difference of groups' rates; the groups have fixed shares of the samples."""
    names = [str(rate) for rate in range(len(rates))]

    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        sizes = np.maximum(1, np.round(n * np.array(shares))).astype(int)
        return gap(names, rng.binomial(sizes, rates), sizes, confidence).interval

    return Kind(max(rates) - min(rates), measure)


def _worse(first: float, second: float) -> Kind:
    """Two floors at the truth: what passes must pass both."""

    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        bounds = [
            proportion_interval(int(rng.binomial(n, share)), n, confidence)
            for share in (first, second)
        ]
        return min(low for low, _ in bounds), max(high for _, high in bounds)

    return Kind(min(first, second), measure)


def _groups(share: float) -> Kind:
    """Five groups, each with its floor at the truth: a bound that decides is the worst one's."""

    def measure(rng: np.random.Generator, n: int, confidence: float) -> Interval:
        right = rng.random(n) < share

        def of_group(group: NDArray[np.bool_]) -> Constraint:
            return constraint("m", lambda _: right[group], at_least=share, confidence=confidence)

        low, _ = by_group(np.arange(n) % 5, of_group)(None).interval
        return low, 1.0  # no ceiling is asked for

    return Kind(share, measure)


def errors(
    kind: Kind, n: int, confidence: float, repeats: int, seed: int = 0
) -> tuple[float, float, float]:
    """Shares of wrong lower and of wrong upper bounds, and half the median width.

    NaN for the width where no bound was given.
    """
    if kind.share is not None:
        return _exact(kind.share, n, confidence)
    rng = np.random.default_rng([seed, n])
    found = [kind.measure(rng, n, confidence) for _ in range(repeats)]
    given = np.array([interval for interval in found if interval is not None]).reshape(-1, 2)
    low, high = given.T
    width = float(np.median(high - low)) / 2 if len(given) else math.nan
    rounding = 1e-9
    wrong_low = float((low > kind.truth + rounding).sum()) / repeats
    return wrong_low, float((high < kind.truth - rounding).sum()) / repeats, width


def _exact(share: float, n: int, confidence: float) -> tuple[float, float, float]:
    """The probabilities of wrong bounds of a proportion, and half the width at the median."""
    from scipy.stats import binom

    counts = np.arange(n + 1)
    chance = binom.pmf(counts, n, share)
    low, high = np.transpose([proportion_interval(int(k), n, confidence) for k in counts])
    middle = int(binom.median(n, share))
    width = float(high[middle] - low[middle]) / 2
    return float(chance[low > share].sum()), float(chance[high < share].sum()), width


def allowed(confidence: float, repeats: int) -> float:
    """The error rate that is declared, and two standard errors of a simulation of it."""
    error = 1 - confidence
    return error + 2 * math.sqrt(error * (1 - error) / repeats)


def _table(
    confidence: float, sizes: Sequence[int], repeats: int, only: str
) -> Iterator[tuple[Table, list[str]]]:
    limit = allowed(confidence, repeats)
    title = f"declared error {1 - confidence:.3g}, at most {limit:.4f} with two standard errors"
    table = Table("kind", *(f"n {n}" for n in sizes), title=title)
    beyond = []
    asked = [(name, kind) for name, kind in kinds().items() if name.startswith(only)]
    for name, kind in track(asked, f"confidence {confidence:g}"):
        cells = []
        for n in sizes:
            low, high, width = errors(kind, n, confidence, repeats)
            shown = "none" if math.isnan(width) else f"{low:.3f} {high:.3f} ± {width:.3f}"
            cells.append(shown)
            if max(low, high) > limit:
                beyond.append(f"{name}, n {n}: {max(low, high):.4f}")
        table.add_row(name, *cells)
    yield table, beyond


def main(argv: Sequence[str] | None = None) -> int:
    """Print the share of wrong bounds by kind and n; 1 where one is beyond what is declared."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.intervals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--confidence", type=float, nargs="+", default=[0.95], help="(0.95)")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="samples")
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help=f"simulated measurements each ({REPEATS})"
    )
    parser.add_argument("--only", default="", metavar="START", help="kinds of such names (all)")
    parser.add_argument("--quick", action="store_true", help="200 repeats of n 20, 50 and 200")
    add_write(parser)
    words = list(sys.argv[1:] if argv is None else argv)
    args: Any = parser.parse_args(words)
    if args.quick:
        args.sizes, args.repeats = [20, 50, 200], 200
    found = [
        each
        for confidence in args.confidence
        for each in _table(confidence, args.sizes, args.repeats, args.only)
    ]
    tables = [table for table, _ in found]
    beyond = [line for _, lines in found for line in lines]
    console = Console()
    for table in tables:
        console.print(table)
    console.print("beyond what is declared: " + ("; ".join(beyond) or "none"))
    if args.write:
        head = (
            f"`python -m benchmarks.intervals {shlex.join(words)}`: shares of wrong lower and "
            f"upper bounds, ± half the median width, of {args.repeats:,} measurements "
            f"(proportions: all counts). "
            f"Beyond what is declared: {'; '.join(beyond) or 'none'}."
        )
        publish("-".join(["intervals", *args.only.split()]), head, tables, args.write)
    return 1 if beyond else 0


if __name__ == "__main__":
    raise SystemExit(main())
