"""Measurements as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_tune.tables import Table

if TYPE_CHECKING:
    from rlhf_tune.safety.measurement import Measurement


def listed(
    measurements: Sequence[Measurement],
    verdicts: Sequence[str],
    *,
    title: str = "",
    notes: Sequence[str] = (),
) -> Table:
    """A row for each measurement.

    Args:
        measurements: The rows.
        verdicts: What is said of each.
        title: Above them.
        notes: Below them, before what the measurements themselves have to say.
    """
    rows = [_row(m, verdict) for m, verdict in zip(measurements, verdicts, strict=True)]
    said = [f"{m.name}: {text}" for m in measurements for text in (*m.reasons, *m.notes)]
    names = ("measure", "value", "asked", "one-sided bound", "n", "cost", "verdict")
    return Table(names, rows, title, (*notes, *said), shown=len(rows))


def verdict_of(measurement: Measurement) -> str:
    """Whether a bound is kept."""
    if not measurement.trusted:
        return "not trusted"
    return "kept" if measurement.satisfied else "missed"


def _row(m: Measurement, verdict: str) -> tuple[object, ...]:
    sign, edge = (">=", m.interval[0]) if m.kind == "floor" else ("<=", m.interval[1])
    return m.name, m.value, f"{sign} {m.bound:.4g}", edge, m.n, m.cost, verdict
