"""Policies: what a move is expected to be worth.

A policy sees a `Situation` and scores its candidate moves; masking and exploration are the
sampler's. A new policy (a transferred prior, a pre-trained network) is one more function of a
situation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.history import History


@dataclass(frozen=True)
class Situation:
    """What the agent knows before it moves.

    Attributes:
        history: The study's trials so far; at least one is complete.
        incumbent: The row of the trial that moves start from.
        moves: [A, D] the lattice's standard moves; row 0 is "stay".
        cells: [M, D] the candidate cells; row 0 is the incumbent's own.
        allowed: [M] which of them the mask allows.
        budget: The number of trials planned, if known.
        seed: Of the study's sampler, the same for every trial.
        rng: The random stream of this trial.
    """

    history: History
    incumbent: int
    moves: NDArray[np.int64]
    cells: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    budget: int | None
    seed: int
    rng: np.random.Generator


@dataclass(frozen=True)
class Policy:
    """A scoring function and how much it explores.

    Attributes:
        q: The values [M] of a situation's candidates.
        epsilon: The probability of a random allowed move after n finished trials.
    """

    q: Callable[[Situation], NDArray[np.float64]]
    epsilon: Callable[[int], float]


def resolve(name: str) -> Policy:
    """The policy of a name.

    Raises:
        InvalidInputError: If there is no policy of that name.
    """
    policies = _policies()
    if name not in policies:
        raise InvalidInputError(f"`policy` must be one of {sorted(policies)}, but got {name!r}")
    return policies[name]()


def _policies() -> Mapping[str, Callable[[], Policy]]:
    return {"default": _online_dqn, "dqn": _online_dqn, "random": _random}


def _online_dqn() -> Policy:
    from rlhf_tune.policy import online  # torch is imported on first use

    return Policy(online.q_values, online.epsilon)


def _random() -> Policy:
    return Policy(lambda situation: np.zeros(len(situation.cells)), lambda _: 1.0)
