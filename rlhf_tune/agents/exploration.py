"""Choosing an action from values and a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import NoAllowedMoveError


def epsilon_greedy(
    q: NDArray[np.floating], mask: NDArray[np.bool_], epsilon: float, rng: np.random.Generator
) -> int:
    """An allowed action: with probability `epsilon` a uniform one, else the best by `q` [A].

    Exploration is masked like exploitation; ties are broken at random.

    Raises:
        NoAllowedMoveError: If `mask` [A] allows nothing.
    """
    actions = np.flatnonzero(mask)
    if len(actions) == 0:
        raise NoAllowedMoveError(
            f"at least one action must be allowed, but the mask forbids all {len(mask)}"
        )
    if rng.random() < epsilon:
        return int(rng.choice(actions))
    best = actions[q[actions] == q[actions].max()]
    return int(rng.choice(best))
