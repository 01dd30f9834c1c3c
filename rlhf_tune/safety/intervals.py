"""Confidence bounds of proportions, of differences, and of any statistic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError, TooFewSamplesError

_RESAMPLES = 1000


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


def bootstrap_interval(
    samples: Sequence[NDArray[Any]], statistic: Callable[..., Any], confidence: float
) -> tuple[float, float]:
    """One-sided percentile bootstrap bounds of a statistic, each holding with `confidence`.

    The resampling is seeded, so equal samples give equal bounds.

    Args:
        samples: Independent samples, [N1], [N2], ...; each is resampled on its own.
        statistic: Of the samples, vectorised over leading axes: ``statistic(a, b, axis=-1)``.
        confidence: Above 0.5, as the two bounds would cross otherwise.

    Raises:
        InvalidInputError: If `confidence` is not within (0.5, 1).
    """
    check_confidence(confidence, above=0.5)
    if all(len(sample) == 1 for sample in samples):  # nothing to resample
        value = float(statistic(*samples, axis=-1))
        return value, value
    from scipy.stats import bootstrap  # most of the time that importing SciPy takes

    result = bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES,
        batch=50,
        vectorized=True,
        confidence_level=2 * confidence - 1,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def check_enough(name: str, n: int, floor: float, confidence: float) -> None:
    """Raise `TooFewSamplesError` if n successes of n do not certify `floor`."""
    if floor <= 0:
        return
    if floor >= 1:
        raise TooFewSamplesError(
            f"{name}: no number of samples certifies a floor of {floor:g}; ask for less, as .99"
        )
    needed = math.ceil(math.log1p(-confidence) / math.log(floor))
    if n < needed:
        raise TooFewSamplesError(
            f"{name}: at least {needed} samples are needed to certify {floor:g} at "
            f"{confidence:.4g} confidence, but there are {n}"
        )


def check_confidence(confidence: float, *, above: float = 0.0) -> None:
    """Raise `InvalidInputError` unless `confidence` lies strictly between `above` and 1."""
    if not above < confidence < 1:
        raise InvalidInputError(
            f"`confidence` must be within ({above:g}, 1), but got {confidence}; 0.95 means 95 %"
        )
