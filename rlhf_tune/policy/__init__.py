"""Policies: what a move is expected to be worth.

A policy sees a `Situation` and scores its candidate moves; masking and the random choice are the
sampler's. A new policy (a transferred prior, a pre-trained network) is one more function of a
situation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.policy import acquisition, online
from rlhf_tune.policy.situation import Situation
from rlhf_tune.prior import FLAT, Prior, shipped


@dataclass(frozen=True)
class Policy:
    """A scoring function, what it knows beforehand, and how much it explores.

    Attributes:
        q: The values [M] of a situation's candidates.
        epsilon: The probability of a random allowed move; risk is never taken at random, so
            below 1 it counts only in studies without constraints.
        prior: Loads what is known of performance from other tasks.
        plans: Whether moves under constraints are also valued for what they show the next one.
    """

    q: Callable[[Situation], NDArray[np.float64]]
    epsilon: float
    prior: Callable[[], Prior]
    plans: bool = False


def _learned() -> Prior:
    return shipped("performance")


POLICIES = {
    "default": Policy(acquisition.q_values, 0.0, _learned),
    "plan": Policy(acquisition.q_values, 0.0, _learned, plans=True),
    "dqn": Policy(online.q_values, 0.0, _learned),
    "no_prior": Policy(acquisition.q_values, 0.05, lambda: FLAT),
    "random": Policy(lambda situation: np.ones(len(situation.cells)), 1.0, lambda: FLAT),
}


def resolve(name: str) -> Policy:
    """The policy of a name.

    Raises:
        InvalidInputError: If there is no policy of that name.
    """
    if name not in POLICIES:
        raise InvalidInputError(f"`policy` must be one of {sorted(POLICIES)}, but got {name!r}")
    return POLICIES[name]
