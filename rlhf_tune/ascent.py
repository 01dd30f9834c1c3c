"""Dual ascent on a multiplier: it rises while a bound is missed, and falls while it is kept."""

from __future__ import annotations

import math


def ascend(
    multiplier: float,
    missed: float,
    *,
    gain: float,
    rise: float = math.inf,
    fall: float = math.inf,
    within: tuple[float, float] = (0.0, math.inf),
) -> float:
    """The next multiplier.

    Args:
        multiplier: The one before.
        missed: By how much the bound is missed; negative where it is kept.
        gain: Step per unit missed.
        rise: The largest step up.
        fall: The largest step down.
        within: The least and the largest multiplier.
    """
    step = min(max(gain * missed, -fall), rise)
    return min(max(multiplier + step, within[0]), within[1])
