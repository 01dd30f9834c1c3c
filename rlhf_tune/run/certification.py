"""Which states of a run may be handed back, and what says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

from rlhf_tune.run.stretch import Checkpoint, Stretch
from rlhf_tune.safety.measurement import Measure, Measurement, check_constraints, halves_of

CANDIDATES = 3
"""States of a run that may be asked whether they are certified, at most."""

_INSIDE = 0.5  # of the interval's half-width: far enough within the bounds to be certified likely
_AT_ITS_BOUND = -1.0  # likewise: what is measured is the bound itself


@final
class Certification:
    """What steers a run, what certifies it, and which of its states are worth asking about.

    Samples that steered a run have chosen its states, and cannot vouch for them. So half of each
    constraint's samples steers, by a measure that costs little, and the other half is asked about
    at most three states, by the strictest one, at a confidence that makes up for their number.

    Attributes:
        steering: The constraints on the samples that steer.
        divides: Whether any constraint's samples are divided; else what steers certifies.
        by: On the samples that steer, the state farthest inside the bounds, and the best by the
            monitored metric that is some way inside.
    """

    def __init__(self, constraints: Sequence[Measure]) -> None:
        """Divide the samples.

        Raises:
            InvalidInputError: If the constraints are no list of them, or two have one name.
            TooFewSamplesError: If half of its samples could not certify a constraint.
        """
        self._constraints = check_constraints(constraints)
        halves = [halves_of(each, CANDIDATES) for each in self._constraints]
        self.steering = tuple(steers for steers, _ in halves)
        self.divides = any(steers is not certifies for steers, certifies in halves)
        self.by: dict[str, Checkpoint] = {}

    def certifying(self, candidates: int) -> tuple[Measure, ...]:
        """The constraints on samples that steer nothing, for so many candidates."""
        return tuple(halves_of(each, candidates)[1] for each in self._constraints)

    def consider(self, stretch: Stretch, snapshot: Callable[[], Any]) -> None:
        """One more state that was measured; its snapshot is made if it is a candidate.

        It need not be within its bounds beyond doubt: the samples that steer certify nothing.
        """
        margin = _margin(stretch)
        inside, farthest = self.by.get("inside"), self.by.get("farthest")
        wins = {
            "inside": margin >= _INSIDE and (inside is None or stretch.value < inside.value),
            "farthest": farthest is None or margin > _margin(farthest.stretch),
        }
        if self.divides and margin > _AT_ITS_BOUND and any(wins.values()):
            state = Checkpoint(snapshot(), stretch.value, stretch.satisfied, stretch)
            self.by |= {role: state for role, won in wins.items() if won}

    def ranked(self, first: Checkpoint) -> list[Checkpoint]:
        """At most `CANDIDATES` states: this one, if within bounds, then others by the metric."""
        states = sorted(self.by.values(), key=lambda state: state.value)
        if first.certified or _margin(first.stretch) > _AT_ITS_BOUND:
            states.insert(0, first)
        different: dict[int, Checkpoint] = {}
        for state in states:
            different.setdefault(id(state.stretch), state)
        return list(different.values())

    def state_dict(self, saved: Callable[[Any], Any], plain: Callable[[Any], Any]) -> Any:
        """The candidates as plain values: each state once, and which of them has which role."""
        states = list({id(each): each for each in self.by.values()}.values())
        number = {id(each): i for i, each in enumerate(states)}
        return {
            "states": [(saved(s.snapshot), s.value, plain(s.stretch)) for s in states],
            "roles": {role: number[id(state)] for role, state in self.by.items()},
        }

    def load_state_dict(
        self, state: Any, loaded: Callable[[Any], Any], revived: Callable[[Any], Any]
    ) -> None:
        """Go on from what `state_dict` returned."""
        states = [
            Checkpoint(loaded(snapshot), value, (s := revived(stretch)).satisfied, s)
            for snapshot, value, stretch in state["states"]
        ]
        self.by = {role: states[i] for role, i in state["roles"].items()}


def _margin(stretch: Stretch | None) -> float:
    """How far within all bounds, in half-widths of the intervals; -inf if nothing was measured."""
    measured = {} if stretch is None else stretch.measurements
    return min((-m.cost / _half_width(m) for m in measured.values()), default=-math.inf)


def _half_width(measured: Measurement) -> float:
    low, high = measured.interval
    width = measured.value - low if measured.kind == "floor" else high - measured.value
    return max(width, 1e-12)  # of an exact measure
