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


@dataclass(frozen=True)
class Policy:
    """A scoring function and how much it explores.

    Attributes:
        q: The values [M] of a situation's candidates.
        epsilon: The probability of a random allowed move; risk is never taken at random, so
            below 1 it counts only in studies without constraints.
    """

    q: Callable[[Situation], NDArray[np.float64]]
    epsilon: float


POLICIES = {
    "default": Policy(acquisition.q_values, epsilon=0.05),
    "dqn": Policy(online.q_values, epsilon=0.05),
    "random": Policy(lambda situation: np.ones(len(situation.cells)), epsilon=1.0),
}


def resolve(name: str) -> Policy:
    """The policy of a name.

    Raises:
        InvalidInputError: If there is no policy of that name.
    """
    if name not in POLICIES:
        raise InvalidInputError(f"`policy` must be one of {sorted(POLICIES)}, but got {name!r}")
    return POLICIES[name]
