"""How far the rates of groups lie apart, and the bounds of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import TooFewSamplesError
from rlhf_tune.safety.groups import Level
from rlhf_tune.safety.intervals import check_confidence

Bits = NDArray[np.bool_]
Floats = NDArray[np.float64]

METRICS: Mapping[str, tuple[str, ...]] = {
    "demographic_parity": ("selection_rate",),
    "equal_opportunity": ("true_positive_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
}
"""The rates that each metric compares; of two, the larger gap counts."""

_DIRECTIONS = 9  # in which the two errors of a difference are looked for


@dataclass(frozen=True)
class Gap:
    """The largest difference of a rate between two groups.

    Attributes:
        value: The difference; NaN where fewer than two groups have the rate.
        interval: One-sided confidence bounds of it.
        between: The groups of the highest and of the lowest rate; empty where undefined.
        n: Of the samples behind all rates.
    """

    value: float
    interval: tuple[float, float]
    between: tuple[str, ...]
    n: int

    @property
    def defined(self) -> bool:
        """Whether at least two groups have the rate."""
        return not math.isnan(self.value)


UNDEFINED = Gap(math.nan, (math.nan, math.nan), (), 0)


def gap(
    names: Sequence[str],
    successes: NDArray[Any],
    n: NDArray[Any],
    confidence: float,
    *,
    gaps: int = 1,
) -> Gap:
    """The gap of some groups' rates; a group without samples has none and does not decide.

    The upper bound is the largest of all pairs' upper bounds. Whichever pair truly lies farthest
    apart, its own bound holds, so it needs no correction for their number; the lower bound, of
    which any pair's could be too high, has Bonferroni's.

    Args:
        names: Of the groups [G].
        successes: Counts [G].
        n: Samples [G].
        confidence: Of each bound.
        gaps: Of how many such gaps the largest is asked for; the lower bound makes up for it.
    """
    known = np.flatnonzero(np.asarray(n) > 0)
    if len(known) < 2:
        return UNDEFINED
    successes, n = (np.asarray(part, dtype=np.float64)[known] for part in (successes, n))
    rates = successes / n
    order = rates.argsort(kind="stable")
    least, most = order[0], order[-1]
    ordered_pairs = len(known) * (len(known) - 1) * gaps
    error = 1 - check_confidence(confidence, above=0.5)
    low = -difference_bounds(successes, n, 1 - error / ordered_pairs).T  # of the reverse pairs
    high = difference_bounds(successes, n, confidence)
    others = ~np.eye(len(known), dtype=bool)
    interval = max(0.0, float(low[others].max())), min(1.0, float(high[others].max()))
    between = names[known[most]], names[known[least]]
    return Gap(float(rates[most] - rates[least]), interval, between, int(n.sum()))


def worst(gaps: Sequence[Gap]) -> Gap:
    """The largest of several gaps, with bounds of that."""
    known = [each for each in gaps if each.defined]
    if not known:
        return UNDEFINED
    largest = max(known, key=lambda each: each.value)
    low, high = np.transpose([each.interval for each in known])
    n = max(each.n for each in known)
    return Gap(largest.value, (float(low.max()), float(high.max())), largest.between, n)


def gap_of(
    level: Level, right: Bits, predicted: Bits, metric: str, confidence: float, levels: int = 1
) -> Gap:
    """The gap of a metric at a level; of several rates the larger one.

    Args:
        level: The groups.
        right: Labels [N].
        predicted: Predictions [N].
        metric: Of `METRICS`.
        confidence: Of each bound.
        levels: Of how many levels the largest gap is asked for.
    """
    rates = METRICS[metric]
    found = []
    for rate in rates:
        rows = rows_of(rate, right)
        counts = level.counts(rows & predicted), level.counts(rows)
        found.append(gap(level.names, *counts, confidence, gaps=levels * len(rates)))
    return worst(found)


def rows_of(rate: str, right: Bits) -> Bits:
    """The samples [N] that a rate is a share of, by the labels [N]."""
    if rate == "selection_rate":
        return np.ones_like(right)
    return right if rate == "true_positive_rate" else ~right


def detail(level: Level, rate: str, group: int | np.intp) -> str:
    """The name of a group's rate among the details of a measurement."""
    return f"{rate}[{level.label}={level.names[group]}]"


def difference_bounds(successes: Floats, n: Floats, confidence: float) -> Floats:
    """Upper bounds [G, G] of each pair's difference of rates, row minus column.

    Exact limits of the two rates (Clopper and Pearson) at errors z_1 and z_2 in normal deviates
    with z_1^2 + z_2^2 = z^2, the declared one: the largest difference of such limits. For normal
    estimates it is the root of the sum of squares, as in the methods of Newcombe and of Zou and
    Donner (2008, doi:10.1002/sim.3095, MOVER). Those join limits at one error, and near 0 and 1 are
    wrong several times as often as declared. Of this one all samples of 20 to 2,000 at
    confidences of .8 to .999 were counted, for all rates: at most the declared share is wrong
    (docs/benchmarks/intervals.md).

    Args:
        successes: Counts [G]; fractions of one are allowed.
        n: Samples [G], above 0.
        confidence: Of each bound, at least .5.
    """
    from scipy.special import ndtr, ndtri

    angles = np.linspace(0.0, np.pi / 2, _DIRECTIONS)
    deviates = ndtri(confidence) * np.cos(angles)
    low, high = _limits(successes, n, ndtr(-deviates)[:, None])
    return np.asarray((high[:, :, None] - low[::-1, None, :]).max(axis=0))


def _limits(successes: Floats, n: Floats, error: Floats) -> tuple[Floats, Floats]:
    """One-sided limits [D, G] of rates, each wrong with at most the probability `error` [D, 1]."""
    from scipy.special import betaincinv  # takes longer to import than all of `rlhf_tune.safety`

    failures, none = n - successes, successes >= n
    low = betaincinv(np.where(successes > 0, successes, 1.0), failures + 1, error)
    high = betaincinv(successes + 1, np.where(none, 1.0, failures), 1 - error)
    return np.where(successes > 0, low, 0.0), np.where(none, 1.0, high)


def half_width(n: NDArray[Any], rate: float, confidence: float) -> float:
    """How far beyond nought the upper bound lies if all groups [G] have the same rate."""
    counts = np.asarray(n, dtype=np.float64)
    bounds = difference_bounds(rate * counts, counts, confidence)
    return float(bounds[~np.eye(len(counts), dtype=bool)].max())


def check_wide_enough(
    name: str,
    groups: Sequence[str],
    n: NDArray[Any],
    *,
    at_most: float,
    confidence: float,
    rate: float,
    of: str,
) -> None:
    """Raise `TooFewSamplesError` if the bound is narrower than the samples' half-width.

    Args:
        name: Of the constraint.
        groups: Names [G].
        n: Samples [G], above 0.
        at_most: The bound.
        confidence: Of it.
        rate: That all groups are supposed to have.
        of: What is counted, for the message.
    """
    width = half_width(n, rate, confidence)
    if width <= at_most:
        return
    smallest = int(np.argmin(n))
    if at_most <= 0:
        needed = "no number of samples certifies a gap of 0; allow a little, as .05"
    else:
        factor = 1.0
        while half_width(np.asarray(n) * factor, rate, confidence) > at_most:
            factor *= 1.05
        needed = (
            f"about {math.ceil(n[smallest] * factor)} of it are needed, and "
            f"{factor:.3g} times as many of all groups"
        )
    raise TooFewSamplesError(
        f"{name}: groups that are treated alike could lie {width:.3g} apart at "
        f"one-sided {100 * confidence:.4g} % confidence, which is more than at_most={at_most:g}: "
        f"there are {int(n[smallest])} {of} of {groups[smallest]!r}; {needed}"
    )
