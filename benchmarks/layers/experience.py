"""Recorded traces as experience to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.layers import simulation as sim
from rlhf_tune.fine_tuning.policies import OPERATION_FEATURES
from rlhf_tune.pretraining.fine_tuning import Experience

TUNE_COST = SWITCH_COST = 0.001
"""Small: what is learned is to gain; the budget is a limit, no price."""

Floats = NDArray[np.float32]


def load(paths: Sequence[Path]) -> dict[str, Floats]:
    """Traces of several files, tasks first: [K, T + 1, M, ...]."""
    files = [np.load(path, allow_pickle=False) for path in paths]
    return {name: np.concatenate([f[name] for f in files]) for name in files[0].files}


def kept(metric: Floats, accuracy: Floats) -> Floats:
    """[..., T + 1, M] held-out accuracy of the state that would be handed back at each time.

    It is the first of those with the best validation accuracy, as of a guarded run.
    """
    best = np.maximum.accumulate(metric, axis=-2)
    fresh = np.concatenate([np.ones_like(best[..., :1, :]), np.diff(best, axis=-2) > 0], axis=-2)
    times = np.arange(metric.shape[-2])[:, None]
    at = np.maximum.accumulate(np.where(fresh > 0, times, 0), axis=-2)
    return np.take_along_axis(accuracy, at, axis=-2)


def experience(traces: dict[str, Floats]) -> Experience:
    """All transitions in which something was done."""
    worth = kept(traces["metric"], traces["accuracy"]).astype(np.float32)
    gain = np.diff(worth, axis=1)
    group, operation = np.divmod(traces["action"].astype(np.int64), len(sim.OPERATIONS))
    names = np.array(sim.OPERATIONS)[operation]
    known = np.array(
        [OPERATION_FEATURES.index(o) if o in OPERATION_FEATURES else -1 for o in sim.OPERATIONS]
    )[operation]
    tuned = (names == "tune") | (names == "tune slowly")
    last = np.concatenate([group[:, :1], group[:, :-1]], axis=1)
    reward = gain - TUNE_COST * tuned - SWITCH_COST * (group != last)
    time = np.arange(group.shape[1])[None, :, None]
    goes_on = np.broadcast_to(time < group.shape[1] - 1, group.shape)
    # Once a copy has stopped nothing it does counts.
    stopped = np.cumsum(names == "stop", axis=1) > 0
    use = (known >= 0) & ~stopped
    return Experience(
        traces["observation"][:, :-1][use],
        group[use],
        known[use],
        reward[use],
        traces["observation"][:, 1:][use],
        goes_on[use],
        len(sim.GROUPS),
    )
