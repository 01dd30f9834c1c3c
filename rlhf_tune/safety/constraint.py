"""Measurements with a bound, an exact interval and a cost: the currency of every constraint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scipy.stats import binomtest

from rlhf_tune.errors import InvalidInputError

Constraint = Callable[[Any], "Measurement"]
"""A constraint is anything that measures a model."""


@dataclass(frozen=True)
class Measurement:
    """One measured property of a model, and whether it keeps its bound.

    Attributes:
        name: The key under which a study or report lists it.
        value: The point estimate, in the measure's units.
        bound: The floor or ceiling asked for, in the same units.
        interval: One-sided lower and upper confidence bounds of the value.
        n: Number of samples behind the value.
        cost: How far the confidence bound misses: for a floor ``bound - low``, for a ceiling
            ``high - bound``; ``<= 0`` is satisfied. An untrusted measurement costs ``inf``.
        trusted: False when the evidence itself is in doubt.
        reasons: Why it is not trusted, one sentence each.
        details: Further figures by name.
    """

    name: str
    value: float
    bound: float
    interval: tuple[float, float]
    n: int
    cost: float
    trusted: bool = True
    reasons: tuple[str, ...] = ()
    details: Mapping[str, float] = field(default_factory=dict)

    @property
    def satisfied(self) -> bool:
        """Whether the bound is kept at the measurement's confidence; never if untrusted."""
        return self.cost <= 0


def measured(
    name: str,
    value: float,
    bound: float,
    interval: tuple[float, float],
    n: int,
    *,
    kind: Literal["floor", "ceiling"],
    reasons: Sequence[str] = (),
    details: Mapping[str, float] | None = None,
) -> Measurement:
    """Build a `Measurement`, deriving its cost; any entry in `reasons` makes it untrusted."""
    low, high = interval
    cost = bound - low if kind == "floor" else high - bound
    reasons = (*reasons, *(["the value is not finite"] if not math.isfinite(value) else []))
    return Measurement(
        name=name,
        value=value,
        bound=bound,
        interval=interval,
        n=n,
        cost=math.inf if reasons or math.isnan(cost) else cost,
        trusted=not reasons,
        reasons=reasons,
        details=dict(details or {}),
    )


def proportion_interval(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """One-sided Clopper-Pearson bounds of a proportion, each holding with `confidence`.

    Source: Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404.

    Raises:
        InvalidInputError: If there are no samples, or `confidence` is not within (0, 1).
    """
    if n < 1:
        raise InvalidInputError(f"at least one sample is needed, but got n={n}")
    check_confidence(confidence)
    test = binomtest(successes, n)
    two_sided = 2 * confidence - 1
    if two_sided <= 0:
        raise InvalidInputError(
            f"`confidence` must be above 0.5 for a one-sided bound, but got {confidence}"
        )
    interval = test.proportion_ci(confidence_level=two_sided, method="exact")
    return float(interval.low), float(interval.high)


def check_confidence(confidence: float) -> None:
    """Raise `InvalidInputError` unless `confidence` lies strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise InvalidInputError(
            f"`confidence` must be within (0, 1), but got {confidence}; 0.95 means 95 %"
        )
