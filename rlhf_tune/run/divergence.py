"""When a run that diverges again and again is to be doubted, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_tune.errors import DivergedError, InvalidInputError
from rlhf_tune.run.stretch import Stretch

DIVERGED = 3
"""Stretches, before it is asked whether the rate is at fault."""

HOPELESS = 8
"""In a row, in a loop of the user's, whose steps cannot be asked for."""

LOOK = "look for NaN in the data, and for logarithms and divisions in the loss"

_NEXT_TO_NOTHING = 1e-9  # of a rate: lost in the rounding of the weights
_NOTHING = 1e-12  # a rate that is, whatever the one that diverged was


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


def fault_beside_the_rate(trainer: Any, probe: Callable[[int], float], steps: int) -> str | None:
    """What diverges at a rate that changes no weight, as a sentence; None if nothing does.

    Args:
        trainer: That diverged.
        probe: Trains so many steps from the best state; inf where it diverges.
        steps: To take.
    """
    rate = trainer.hyperparameters["learning_rate"]
    try:
        trainer.set(learning_rate=min(rate * _NEXT_TO_NOTHING, _NOTHING))
    except InvalidInputError:  # a scheduler's: the data can be looked at all the same
        probe(steps)
        return data_fault(trainer)
    return None if math.isfinite(probe(steps)) else data_fault(trainer) or LOOK


def data_fault(trainer: Any) -> str | None:
    """What a trainer saw in the training data that is not finite, as a sentence."""
    fault: str | None = getattr(trainer, "data_fault", lambda: None)()
    return fault
