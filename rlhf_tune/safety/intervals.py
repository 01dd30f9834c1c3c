"""Confidence bounds of proportions, of their differences, and of means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.safety.samples import as_number

_LARGEST_STAKE = 0.75  # of what can be lost at once
_NEXT_TO_NOTHING = 1e-9


def proportion_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided Clopper-Pearson bounds of a proportion, each holding with `confidence`.

    Source: Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404.

    Raises:
        InvalidInputError: If there are no samples, or `confidence` is not within (0, 1).
    """
    if n < 1:
        raise InvalidInputError(f"at least one sample is needed, but got n={n}")
    check_confidence(confidence)
    from scipy.special import betaincinv  # takes longer to import than all of `rlhf_tune.safety`

    failures, error = n - successes, 1 - confidence
    low = betaincinv(successes, failures + 1, error) if successes else 0.0
    high = betaincinv(successes + 1, failures, confidence) if failures else 1.0
    return float(low), float(high)


def difference_interval(gained: int, lost: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a difference of paired shares ``(gained - lost) / n``.

    Each share gets its exact bound at half the error rate; together they hold at `confidence`.
    """
    half = (1 + confidence) / 2
    (gained_low, gained_high), (lost_low, lost_high) = (
        proportion_interval(count, n, half) for count in (gained, lost)
    )
    return gained_low - lost_high, gained_high - lost_low


def mean_interval(
    values: NDArray[Any], confidence: float, low: float, high: float
) -> tuple[float, float]:
    """One-sided bounds of the mean of values within [low, high], each holding with `confidence`.

    They hold at every n and for every distribution on that range: a bet against each mean m, whose
    stakes depend on earlier values alone, multiplies its stake by 1 / (1 - confidence) with at
    most that probability if m is the mean. Source: Waudby-Smith and Ramdas (2024),
    arXiv:2010.09686, section 4.

    Args:
        values: [N] within the range, in an order that does not depend on them; they are shuffled.
        confidence: Of each bound.
        low: The smallest value possible.
        high: The largest.

    Raises:
        InvalidInputError: If there are no values, one is beyond the range, or `confidence` is not
            within (0, 1).
    """
    check_confidence(confidence)
    if not len(values):
        raise InvalidInputError("at least one value is needed, but got none")
    if not (values.min() >= low and values.max() <= high):
        raise InvalidInputError(
            f"values must lie within ({low:g}, {high:g}), "
            f"but span [{values.min():.9g}, {values.max():.9g}]"
        )
    shuffled = np.random.default_rng(0).permutation(np.asarray(values, dtype=np.float64))
    share = (shuffled - low) / (high - low)
    below, above = _lower_bound(share, 1 - confidence), 1 - _lower_bound(1 - share, 1 - confidence)
    return low + below * (high - low), low + above * (high - low)


def _lower_bound(share: NDArray[np.float64], error: float) -> float:
    """Of the mean of shares within [0, 1]: the largest that the bets speak against."""
    from scipy.optimize import brentq  # takes longer to import than all of `rlhf_tune.safety`

    n, goal = len(share), -math.log(error)
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(share)) / (count + 1)
    variance = (0.25 + np.cumsum((share - mean) ** 2)) / (count + 1)
    stake = np.sqrt(2 * goal / (n * np.append(0.25, variance[:-1])))

    def won(m: float) -> float:
        capped = np.minimum(stake, _LARGEST_STAKE / m)
        return float(np.cumsum(np.log1p(capped * (share - m))).max()) - goal

    if won(_NEXT_TO_NOTHING) <= 0:
        return 0.0
    return max(0.0, float(brentq(won, _NEXT_TO_NOTHING, 1.0, xtol=_NEXT_TO_NOTHING)) - 1e-9)


def check_enough(
    name: str, n: int, floor: float, confidence: float, *, asked: str | None = None
) -> None:
    """Raise `TooFewSamplesError` if n successes of n do not certify `floor`.

    `asked` says it in the user's words, if these were not of a floor: "at_most=0.1".
    """
    if floor <= 0:
        return
    if floor >= 1:
        remedy = "ask for less, as .99" if asked is None else "allow a little, as .01"
        raise TooFewSamplesError(
            f"{name}: no number of samples certifies {asked or f'a floor of {floor:g}'}; {remedy}"
        )
    needed = least(floor, confidence)
    if n < needed:
        raise TooFewSamplesError(
            f"{name}: at least {needed} samples are needed to certify {asked or f'{floor:g}'} at "
            f"one-sided {100 * confidence:.4g} % confidence, but there are {n}"
        )


def check_halves(name: str, n: int, floor: float, confidence: float) -> None:
    """Raise `TooFewSamplesError` if n samples, half of what was given, do not certify `floor`."""
    if floor > 0 and n < least(floor, confidence):
        raise TooFewSamplesError(
            f"{name}: a half of the samples steers the run and a half certifies, so at least "
            f"{2 * least(floor, confidence)} different ones are needed to certify {floor:g}, but "
            f"there are about {2 * n}"
        )


def least(floor: float, confidence: float) -> int:
    """Samples that certify a floor within (0, 1) if all succeed."""
    return math.ceil(math.log1p(-confidence) / math.log(floor))


def check_confidence(confidence: float, *, above: float = 0.0) -> float:
    """The confidence; raise `InvalidInputError` unless it is strictly between `above` and 1."""
    number = as_number("`confidence`", confidence)
    if not above < number < 1:
        raise InvalidInputError(
            f"`confidence` must be within ({above:g}, 1), but got {confidence}; 0.95 means 95 %"
        )
    return number
