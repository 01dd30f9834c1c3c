"""What is said of a run whose bounds are not kept: how far they are, and what would help."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_tune.safety.measurement import Measure, Measurement
from rlhf_tune.safety.shortfall import nearest, remedies, told

if TYPE_CHECKING:
    from rlhf_tune.run.guarded import GuardedRun

_LOG = logging.getLogger(__name__)

LATE = 0.25
"""The share of a run's budget after which it is said how far the bounds are."""


def sentence(
    why: str,
    found: Sequence[Mapping[str, Measurement]],
    constraints: Sequence[Measure],
    advised: str = "",
) -> str:
    """Why no model can be handed back: what came nearest, and what would help."""
    told = f"the model handed back must satisfy its constraints, but {why} {quoted(found)}"
    return f"{told}; {advised or advice(found, constraints)}"


def quoted(measured: Sequence[Mapping[str, Measurement]]) -> str:
    """Of each constraint the measurement nearest to its bound, as a sentence's part."""
    return ", ".join(map(told, nearest(measured)))


def advice(
    measured: Sequence[Mapping[str, Measurement]], constraints: Sequence[Measure] = ()
) -> str:
    """What may help a run that certified nothing; first of all the remedies of constraints."""
    offered = (getattr(each, "remedy", lambda: None)() for each in constraints)
    names = [name for remedy in offered if remedy is not None for name in remedy.names]
    first = f"reach=True trains against them (moves {', '.join(names)}); else " if names else ""
    *some, last = remedies(nearest(measured))
    return f"{first}{', '.join(some)}, or {last}"


def tell_how_far(guarded: GuardedRun, before: float) -> None:
    """Log how far the bounds are, when a quarter of the budget is spent and none was kept yet.

    Args:
        guarded: The run, after a stretch.
        before: What was spent before that stretch, in epochs.
    """
    late = before < LATE * guarded.epochs <= guarded.spent
    if not late or not guarded.constraints or guarded.best.certified or not guarded.left:
        return
    _LOG.warning(
        "after %.3g epochs no state of the run keeps its bounds; nearest was %s; the run goes on, "
        "and should none be certified at its end, %s",
        guarded.spent,
        quoted(guarded.measured),
        advice(guarded.measured),
    )
