"""How a constraint's cost drifts inside a training run, and so how safe the next stretch is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SCALE = 0.03  # of the change of a cost from stretch to stretch, before any was seen
_DEGREES = 3.0  # how many changes that guess is worth


def p_safe(cost: float, changes: Sequence[float]) -> float:
    """The probability that a cost is at most 0 after a move.

    The cost changes by a Student t whose centre and scale are learned from earlier changes after
    the same move; before any was seen, it is centred on no change. So what is safe now is not
    predicted to become unsafe, until a move has made it worse.

    Args:
        cost: Now; inf if it was not trusted.
        changes: [N] of the cost, over earlier stretches with that move.
    """
    from scipy.special import stdtr  # slow to import, and a run without constraints needs none

    seen = np.asarray([change for change in changes if np.isfinite(change)], dtype=np.float64)
    degrees = _DEGREES + len(seen)
    centre = float(seen.sum()) / (len(seen) + 1)
    scale = np.sqrt((_DEGREES * _SCALE**2 + float(((seen - centre) ** 2).sum())) / degrees)
    return float(stdtr(degrees, -(cost + centre) / scale))
