"""Policies: what a move is expected to be worth.

A policy sees a `StudyState` and scores its candidate moves; masking and the random choice are the
sampler's. A new policy (a transferred prior, a pre-trained network) is one more function of a
state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.study import dqn_residual
from rlhf_tune.study.prior import FLAT, Prior, load, shipped
from rlhf_tune.study.state import StudyState


@dataclass(frozen=True)
class Policy:
    """A scoring function, what it knows beforehand, and how much it explores.

    Attributes:
        q: The values [M] of a state's candidates.
        epsilon: The probability of a random allowed move; risk is never taken at random, so
            below 1 it counts only in studies without constraints.
        prior: Loads what is known of performance from other tasks.
        plans: Whether moves under constraints are also valued for what they show the next one.
    """

    q: Callable[[StudyState], NDArray[np.float64]]
    epsilon: float
    prior: Callable[[], Prior]
    plans: bool = False


def _given(prior: Prior) -> Prior:
    return prior


def expected_improvement(state: StudyState) -> NDArray[np.float64]:
    """The expected improvement [M] of the candidate moves on the incumbent, in scales."""
    return state.outlook.improvement(state.incumbent, state.cells)


def _indifferent(state: StudyState) -> NDArray[np.float64]:
    return np.ones(len(state.cells))


# "default" was chosen on validation tasks; the 5 % of "no_prior" were not tuned.
_LEARNED = partial(shipped, "performance")
_NOTHING = partial(_given, FLAT)  # no lambda: samplers can be pickled


POLICIES = {
    "default": Policy(expected_improvement, 0.0, _LEARNED),
    "plan": Policy(expected_improvement, 0.0, _LEARNED, plans=True),
    "dqn": Policy(dqn_residual.q_values, 0.0, _LEARNED),
    "no_prior": Policy(expected_improvement, 0.05, _NOTHING),
    "random": Policy(_indifferent, 1.0, _NOTHING),
}


def resolve(name: str) -> Policy:
    """The policy of a name, or the default one with the prior of a policy file.

    Raises:
        InvalidInputError: If there is no policy of that name, or the file is none.
    """
    if name in POLICIES:
        return POLICIES[name]
    if not name.endswith(".safetensors"):
        raise InvalidInputError(
            f"`policy` must be one of {sorted(POLICIES)} or a file NAME.safetensors that "
            f"`rlhf-tune pretrain` wrote, but got {name!r}"
        )
    learned = load(Path(name)).get("performance")
    if learned is None:
        raise InvalidInputError(
            f"a policy file must hold a prior of performance, but {name} has none"
        )
    return replace(POLICIES["default"], prior=partial(_given, learned))
