"""What is missing for a bound to be kept, and what would help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_tune.safety.measurement import Measurement


def nearest(measured: Sequence[Mapping[str, Measurement]]) -> list[Measurement]:
    """Of each constraint the measurement that came nearest to its bound."""
    names = dict.fromkeys(name for one in measured for name in one)
    return [
        min((one[name] for one in measured if name in one), key=lambda m: m.cost) for name in names
    ]


def told(measured: Measurement) -> str:
    """The value, what was asked, and the end of its interval that decides, with its samples."""
    text = f"{measured.name} = {measured.value:.4g} for a {measured.kind} of {measured.bound:.4g}"
    if _exact(measured):
        return text
    side, end = (0, "lower") if measured.kind == "floor" else (1, "upper")
    doubt = "" if measured.trusted else ", not trusted"
    missed = f"missed by {measured.missed:.2g}" if measured.missed > 0 else "kept"
    at = f"one-sided {end} bound {measured.interval[side]:.4g} of n = {measured.n}"
    return f"{text} ({at}, {missed}{doubt})"


def remedies(measured: Sequence[Measurement]) -> list[str]:
    """What would have certified the constraints that were missed, in the order of its price."""
    missed = [m for m in measured if not m.satisfied]
    lowered = [_other_bound(m) for m in missed]
    if all(map(_exact, missed)):
        return [*lowered, "train longer"]
    needed = [count for m in missed if (count := samples_needed(m)) is not None]
    # More samples alone would do where every value itself keeps its bound.
    enough = f" (about {max(needed)} would do)" if needed and len(needed) == len(missed) else ""
    return [*lowered, "train longer", f"measure on more samples{enough}"]


def _exact(measured: Measurement) -> bool:
    return measured.interval[0 if measured.kind == "floor" else 1] == measured.value


def _other_bound(measured: Measurement) -> str:
    """The bound that the measurement would have kept, rounded to its safe side."""
    floor = measured.kind == "floor"
    edge = measured.interval[0 if floor else 1]
    if not math.isfinite(edge):
        return f"ask less of {measured.name}"
    digits = 10 ** (3 - math.ceil(math.log10(abs(edge)))) if edge else 1.0
    kept = (math.floor if floor else math.ceil)(edge * digits) / digits
    change, side = ("lower", "below") if floor else ("raise", "above")
    return f"{change} the {measured.kind} of {measured.name} to {kept:.4g} or {side}"


def samples_needed(measurement: Measurement) -> int | None:
    """About how many samples would certify the value, if it stayed; None if no number would.

    The distance to the confidence bound shrinks with the root of n; where every sample counts
    for the bound, the exact bound of a proportion is a**(1/n), which gives n exactly.
    """
    low, high = measurement.interval
    value, bound = measurement.value, measurement.bound
    if measurement.kind == "ceiling":
        value, bound, low = -value, -bound, -high
    if not value > bound or not low < value:
        return None
    perfect = 1.0 if measurement.kind == "floor" else 0.0
    if value == perfect and 0 < low + 1 - perfect < 1 and 0 < bound + 1 - perfect < 1:
        ratio = math.log(low + 1 - perfect) / math.log(bound + 1 - perfect)
        return math.ceil(round(measurement.n * ratio, 6))
    return math.ceil(measurement.n * ((value - low) / (value - bound)) ** 2)
