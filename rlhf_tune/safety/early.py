"""A cheap probe: a constraint measured early in a trial, to stop the trial when it is hopeless."""

from __future__ import annotations

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.safety.measurement import Measurement


def hopeless(early: Measurement, *, drift: float = 0.25) -> bool:
    """Whether a constraint measured early in a trial will hardly be satisfied at its end.

    Stop such a trial, and let the study keep what was measured::

        early = robust(model)  # after a quarter of the epochs
        if hopeless(early):
            trial.set_constraint(early.name, early.cost)
            raise optuna.TrialPruned

    Args:
        early: The measurement; an untrusted one proves nothing.
        drift: How much the cost may still fall, in the measure's units. On recorded tasks robust
            accuracy rose by more than .25 between the 3rd and the 12th epoch in one run of
            twenty.

    Raises:
        InvalidInputError: If `drift` is negative.
    """
    if drift < 0:
        raise InvalidInputError(
            f"`drift >= 0` must hold, but got {drift}; 0.25 is a fall by a quarter"
        )
    return early.trusted and early.cost > drift
