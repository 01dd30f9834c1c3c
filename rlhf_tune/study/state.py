"""What a policy sees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.study.expected_improvement import Outlook, outlook
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.risk import Forecast


@dataclass(frozen=True)
class StudyState:
    """What the agent knows before it moves; every posterior is fitted once.

    Attributes:
        history: The study's trials so far; at least one is complete.
        incumbent: The row of the trial that moves start from.
        cells: [M, D] the candidate cells; in a study, row 0 is the incumbent's own.
        allowed: [M] which of them the mask allows.
        p_safe: [M] the predicted probability that they satisfy all constraints.
        prior: What is known of performance from other tasks.
        forecasts: Of the K constraints, and of whether trials end with a result.
        planned_trials: The number of trials planned, if known.
    """

    history: History
    incumbent: int
    cells: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    p_safe: NDArray[np.float64]
    prior: Prior
    forecasts: tuple[Forecast, ...] = ()
    planned_trials: int | None = None

    @cached_property
    def outlook(self) -> Outlook:
        """The posterior of performance; not every policy asks for it."""
        return outlook(self.history, self.prior)
