"""When a run that diverges again and again is to be doubted, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_tune.errors import DivergedError
from rlhf_tune.run.stretch import Stretch

DIVERGED = 3
"""Stretches, before it is asked whether the rate is at fault."""

HOPELESS = 8
"""In a row, in a loop of the user's, whose steps cannot be asked for."""

NEXT_TO_NOTHING = 1e-9
"""Of a rate: what it moves is lost in the rounding of the weights."""

LOOK = "look for NaN in the data, and for logarithms and divisions in the loss"


def in_a_row(record: Sequence[Stretch], stretches: int) -> bool:
    """Whether so many have diverged, one after the other."""
    last = record[-stretches:]
    return len(last) == stretches and all(stretch.verdict == "diverged" for stretch in last)


def diverged(record: Sequence[Stretch], stretches: int, why: str) -> DivergedError:
    """The error that ends a run, with the rates of its last stretches that diverged."""
    last = record[-stretches:]
    rates = [stretch.learning_rate for stretch in last if stretch.verdict == "diverged"]
    return DivergedError(
        f"training must stay finite, but diverged at learning rates from {min(rates):.3g} to "
        f"{max(rates):.3g}, {why}"
    )
