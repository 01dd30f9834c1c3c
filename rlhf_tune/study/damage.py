"""Trials whose rows in the storage are damaged: they are left out, so that a study can go on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState


def sound(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those that no study leaves behind; of these it warns, once."""
    damaged = [t for t in trials if _damage(t)]
    for trial in damaged:
        warnings.warn(
            f"trial {trial.number} is damaged in the storage and left out: {_damage(trial)}",
            stacklevel=2,
        )
    left_out = {t.number for t in damaged}
    return [t for t in trials if t.number not in left_out]


def _damage(trial: FrozenTrial) -> str:
    """What is wrong with a trial; nothing with most."""
    if trial.state == TrialState.COMPLETE and not trial.values:
        return "it is complete, but has no value"
    for name, value in trial.params.items():
        if isinstance(value, float) and not math.isfinite(value):
            return f"its parameter `{name}` is {value}"
    return ""
