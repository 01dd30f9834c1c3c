"""What risk costs: the value of a move that may violate a constraint."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.policy.situation import Situation

Floats = NDArray[np.float64]


def priced(q: Floats, p_safe: Floats, price: float) -> Floats:
    """[M] q P(safe) - price (1 - P(safe)): a move earns `q` [M] if safe, costs `price` if not.

    Row 0, "stay", is worth 0, so that the study stays where no other move is worth its risk.
    """
    value = q * p_safe - price * (1 - p_safe)
    value[0] = 0.0
    return np.asarray(value)


def risk_adjusted(situation: Situation, q: Floats, price: float) -> Floats:
    """The values [M] of the candidate moves when an unsafe trial costs `price`.

    While nothing is feasible, the gain of a safe trial is 1, wherever it is.
    """
    feasible = situation.history.eligible.any()
    return priced(q if feasible else np.ones(len(q)), situation.p_safe, price)
