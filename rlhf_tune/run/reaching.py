"""A guarded run that trains against the bounds it misses, and certifies what it hands back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

from rlhf_tune.errors import CannotCertify, InvalidInputError
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.reach import Reach
from rlhf_tune.run.stretch import Checkpoint, Move, Stretch
from rlhf_tune.run.trainer import saving
from rlhf_tune.safety.measurement import Measurement, measure_all, nearest

_INSIDE = 0.5  # of the interval's half-width: far enough within the bounds to be certified likely


@dataclass
class _Candidates:
    """Of the states that keep all bounds on the samples that steer, those worth certifying.

    Attributes:
        by: The best by the monitored metric of all, and of those some way within the bounds; and
            the one farthest within them.
    """

    by: dict[str, Checkpoint] = field(default_factory=dict)

    def consider(self, stretch: Stretch, snapshot: Any) -> None:
        """One more state; the snapshot is kept as long as it is a candidate."""
        state = Checkpoint(snapshot, stretch.value, certified=True, stretch=stretch)
        margin = _margin(stretch)
        better = {
            "metric": self._beats("metric", stretch),
            "inside": margin >= _INSIDE and self._beats("inside", stretch),
            "farthest": "farthest" not in self.by or margin > _margin(self.by["farthest"].stretch),
        }
        self.by |= {role: state for role, wins in better.items() if wins}

    def state_dict(self, saved: Callable[[Any], Any], plain: Callable[[Any], Any]) -> Any:
        """Plain values: each state once, and which ones have which roles."""
        states = list({id(each): each for each in self.by.values()}.values())
        number = {id(each): i for i, each in enumerate(states)}
        return {
            "states": [(saved(s.snapshot), s.value, plain(s.stretch)) for s in states],
            "roles": {role: number[id(state)] for role, state in self.by.items()},
        }

    def load_state_dict(
        self, state: Any, loaded: Callable[[Any], Any], revived: Callable[[Any], Any]
    ) -> None:
        """Go on from them."""
        states = [
            Checkpoint(loaded(snapshot), value, certified=True, stretch=revived(stretch))
            for snapshot, value, stretch in state["states"]
        ]
        self.by = {role: states[i] for role, i in state["roles"].items()}

    def ranked(self) -> list[Checkpoint]:
        """The best by the metric first."""
        return sorted({id(each): each for each in self.by.values()}.values(), key=_value)

    def _beats(self, role: str, stretch: Stretch) -> bool:
        return role not in self.by or stretch.value < self.by[role].value


@final
class ReachingRun(GuardedRun):
    """A `GuardedRun` whose constraints have remedies, under `reach=True`.

    The constraints are measured on half of their samples, by measures that cost little. Their
    remedies' weights are set before each stretch. A violation that a weight answers is committed,
    but such a state is never the best one once there is a better; others are rolled back as ever.
    What is handed back is certified on the other half by the strictest measure there is: of at most
    three states the best that passes, at a confidence that makes up for their number.

    Attributes:
        certificate: The measurements that certified what was handed back, by name.
    """

    def __init__(self, trainer: Any, *, reach: Reach, **options: Any) -> None:
        """Take the options of `GuardedRun`, but for the constraints.

        Raises:
            InvalidInputError: If there is a ceiling and no floor.
        """
        self._reach, self._candidates = reach, _Candidates()
        super().__init__(trainer, constraints=reach.steering, **options)
        if self.best.certified:  # a start that keeps its bounds may be the best there will be
            self._candidates.by["metric"] = replace(self.best, snapshot=trainer.snapshot())
        kinds = {measured.kind for measured in self.start.values()}
        if kinds == {"ceiling"}:
            raise InvalidInputError(
                "with reach=True a ceiling needs a floor beside it, as a model that has learned "
                "nothing keeps most ceilings; add one of the metric that you care for, such as "
                "constraint('accuracy', right, at_least=0.8)"
            )

    def attempt(self, move: Move, steps: int) -> Stretch:
        """Set the weights too, and keep what may be handed back; see `GuardedRun.attempt`."""
        stretch = super().attempt(self._reach.moved(move, self.record), steps)
        self._consider(stretch)
        return stretch

    def state_dict(self) -> dict[str, Any]:
        """With the candidates; see `GuardedRun.state_dict`."""
        from rlhf_tune.run.saving import Plainly  # most runs are not written

        saved, _ = saving(self._trainer)
        candidates = self._candidates.state_dict(saved, Plainly(self.record).plain)
        return {**super().state_dict(), "candidates": candidates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        from rlhf_tune.run.saving import Plainly

        _, loaded = saving(self._trainer)
        super().load_state_dict(state)
        revived = Plainly(self.record).revived
        self._candidates.load_state_dict(state["candidates"], loaded, revived)

    @property
    def hopeless(self) -> str | None:
        """Why the run cannot reach its bounds with the budget left; None while it may."""
        if self._candidates.by:
            return None
        return self._reach.out_of_reach(self.record, self.epochs)

    def hand_back(self, *, best: bool) -> None:
        """Leave the trainer at the best of the candidates that is certified.

        Raises:
            CannotCertify: If none is; its `best` is the model, at its best state.
        """
        if self.here is not None and not self._measured_at(self.here):
            self._certify(best=True)
            self._consider(self.here)
        found: list[Mapping[str, Measurement]] = []
        candidates = self._candidates.ranked()
        for state in candidates:
            self._trainer.restore(state.snapshot)
            found.append(self._certified(len(candidates)))
            if all(measured.satisfied for measured in found[-1].values()):
                self.best, self.here, self.certificate = state, state.stretch, found[-1]
                return
        self.go_back()
        raise CannotCertify(self._why(found), best=self._trainer.model)

    def _consider(self, stretch: Stretch) -> None:
        """Keep the state in hand, if it may be handed back."""
        if stretch.committed and self._holds(stretch):
            self._candidates.consider(stretch, self._trainer.snapshot())

    def _certified(self, candidates: int) -> Mapping[str, Measurement]:
        with self._looking():
            return measure_all(self._reach.certifying(candidates), self._trainer.model)

    def _why(self, found: list[Mapping[str, Measurement]]) -> str:
        given_up = self.hopeless
        if found:
            said = (
                f"none of the {len(found)} best states was certified on the samples that steered "
                f"nothing; nearest was {nearest(found)}"
            )
        else:
            said = (
                f"no state of the run kept them on the samples that steer; nearest was "
                f"{nearest(self._measurements)}"
            )
        weights = ", ".join(f"{k} {w:.2g}" for k, w in self._reach.weights(self.record).items())
        remedy = given_up or "train longer, or measure on more samples"
        return (
            f"the model handed back must satisfy its constraints, but {said}; the weights ended at "
            f"{weights}; {remedy}"
        )

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


def _margin(stretch: Stretch | None) -> float:
    """How far within all bounds, in half-widths of the intervals."""
    measured = {} if stretch is None else stretch.measurements
    return min((-m.cost / _half_width(m) for m in measured.values()), default=math.inf)


def _half_width(measured: Measurement) -> float:
    low, high = measured.interval
    width = measured.value - low if measured.kind == "floor" else high - measured.value
    return max(width, 1e-12)  # of an exact measure


def _value(state: Checkpoint) -> float:
    return state.value
