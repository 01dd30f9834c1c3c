"""What a policy sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.history import History
from rlhf_tune.study.prior import Prior


@dataclass(frozen=True)
class Situation:
    """What the agent knows before it moves.

    Attributes:
        history: The study's trials so far; at least one is complete.
        incumbent: The row of the trial that moves start from.
        moves: [A, D] the lattice's standard moves; row 0 is "stay".
        cells: [M, D] the candidate cells; in a study, row 0 is the incumbent's own.
        allowed: [M] which of them the mask allows.
        p_safe: [M] the predicted probability that they satisfy all constraints.
        prior: What is known of performance from other tasks.
        budget: The number of trials planned, if known.
        seed: Of the study's sampler, the same for every trial.
        rng: The random stream of this trial.
    """

    history: History
    incumbent: int
    moves: NDArray[np.int64]
    cells: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    p_safe: NDArray[np.float64]
    prior: Prior
    budget: int | None
    seed: int
    rng: np.random.Generator
