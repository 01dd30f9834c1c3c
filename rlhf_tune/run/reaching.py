"""A guarded run that trains against the bounds it misses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.reach import Reach
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.safety.measurement import Measurement


@final
class ReachingRun(GuardedRun):
    """A `GuardedRun` whose constraints have remedies, under `reach=True`.

    Their weights are set before each stretch. A violation that a weight answers is committed, but
    such a state is never the best one once there is a better; others are rolled back as ever.
    """

    def __init__(self, trainer: Any, *, reach: Reach, **options: Any) -> None:
        """Take the options of `GuardedRun`, but for the constraints.

        Raises:
            InvalidInputError: If there is a ceiling and no floor.
        """
        self._reach = reach
        super().__init__(trainer, constraints=reach.constraints, **options)
        kinds = {measured.kind for measured in self.start.values()}
        if kinds == {"ceiling"}:
            raise InvalidInputError(
                "with reach=True a ceiling needs a floor beside it, as a model that has learned "
                "nothing keeps most ceilings; add one of the metric that you care for, such as "
                "constraint('accuracy', right, at_least=0.8)"
            )

    def attempt(self, move: Move, steps: int) -> Stretch:
        """Set the weights too; see `GuardedRun.attempt`."""
        return super().attempt(self._reach.moved(move, self.record), steps)

    @property
    def hopeless(self) -> str | None:
        """Why the run cannot reach its bounds with the budget left; None while it may."""
        if self.best.certified:
            return None
        return self._reach.out_of_reach(self.record, self.epochs)

    @property
    def _advice(self) -> str:
        weights = ", ".join(f"{k} {w:.2g}" for k, w in self._reach.weights(self.record).items())
        remedy = self.hopeless or "train longer, or measure on more samples"
        return f"the weights ended at {weights}; {remedy}"

    def _violates(self, measured: Mapping[str, Measurement]) -> bool:
        return self.best.certified and not self._reach.answers(measured)

    def _is_best(self, stretch: Stretch) -> bool:
        """Until the bounds are kept the best is what is nearest to them: the metric is not it."""
        if self.best.certified or not self._measured_at(stretch):
            return self._holds(stretch) and stretch.value < self.best.value
        here = self.best.stretch
        before = self.start if here is None else here.measurements
        return stretch.satisfied or _worst(stretch.measurements) < _worst(before)


def _worst(measured: Mapping[str, Measurement]) -> float:
    return max((m.cost for m in measured.values()), default=-math.inf)
