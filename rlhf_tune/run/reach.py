"""How a run moves the weights of its constraints' remedies, and on which samples it is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.safety.measurement import (
    Constraint,
    Every,
    Measure,
    Measurement,
    check_constraints,
    name_of,
)
from rlhf_tune.safety.remedy import Remedy

CANDIDATES = 3
"""States of a run that may be asked whether they are certified, at most."""

# Of the rule that gives up, looked at on digits; docs/benchmarks/knobs.md counts its false alarms.
_LATELY = 3  # stretches over which a gain is looked for, and at least so many before them
_ROUNDING = 1e-6  # a framework may keep a weight in single precision
_LATE = 0.2  # what may still be gained when the rate decays, in the measure's units


@dataclass(frozen=True)
class Reach:
    """The constraints of a run under `reach=True`, and their remedies.

    Attributes:
        constraints: As the user gave them.
        remedies: By the name of their constraint.
    """

    constraints: tuple[Measure, ...]
    remedies: Mapping[str, Remedy]

    @classmethod
    def of(cls, constraints: Sequence[Measure]) -> Reach:
        """Of what a user handed to `fit`.

        Raises:
            InvalidInputError: If no constraint has a remedy, two have one of the same weights, or
                one is made of several by `&` or `by_group`.
            TooFewSamplesError: If half of its samples could not certify a constraint.
        """
        known = check_constraints(constraints)
        for each in known:
            if isinstance(each, Every):
                raise InvalidInputError(
                    f"with reach=True each constraint must stand for itself, so that each has a "
                    f"weight of its own, but {each.name!r} is made of several; list them"
                )
        offered = {name_of(each): each.remedy() for each in known if isinstance(each, Constraint)}
        remedies = {name: remedy for name, remedy in offered.items() if remedy is not None}
        _check_remedies(remedies, known)
        reach = cls(known, remedies)
        reach.certifying(CANDIDATES)  # too few samples are said now
        return reach

    @property
    def steering(self) -> tuple[Measure, ...]:
        """The constraints on the samples that steer the run."""
        return tuple(_halves(each, CANDIDATES)[0] for each in self.constraints)

    def certifying(self, candidates: int) -> tuple[Measure, ...]:
        """The constraints on samples that steer nothing, for so many candidates."""
        return tuple(_halves(each, candidates)[1] for each in self.constraints)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all weights."""
        return tuple(name for remedy in self.remedies.values() for name in remedy.names)

    def weights(self, record: Sequence[Stretch]) -> dict[str, float]:
        """For the stretch to come.

        A fold over the record, and nothing else: a run that is resumed has the same, and a
        stretch that is rolled back was learned from all the same.
        """
        weights: dict[str, float] = {}
        for name, remedy in self.remedies.items():
            own = remedy.first
            for stretch in record:
                if name in stretch.measurements:
                    own = remedy.update(own, stretch.measurements[name])
            weights |= own
        return weights

    def moved(self, move: Move, record: Sequence[Stretch]) -> Move:
        """A policy's move, and the weights with it."""
        weights = self.weights(record)
        before = record[-1].hyperparameters if record else weights
        moved = any(abs(weights[name] - before[name]) > _ROUNDING for name in weights)
        name = "weight" if moved and move.name == "stay" else move.name
        return replace(move, name=name, hyperparameters={**move.hyperparameters, **weights})

    def answers(self, measured: Mapping[str, Measurement]) -> bool:
        """Whether a weight can move each constraint that these violate."""
        return all(m.satisfied or name in self.remedies for name, m in measured.items())

    def out_of_reach(self, record: Sequence[Stretch], epochs: float) -> str | None:
        """Why a bound will not be reached with what is left of the budget; None if it may be.

        Asked of constraints whose weights have been at their largest for some stretches: what they
        gain a stretch would not suffice.
        """
        for name, remedy in self.remedies.items():
            full = [s for s in record if name in s.measurements and _is_full(remedy, s)]
            if len(full) <= _LATELY:
                continue
            missed = [stretch.measurements[name].missed for stretch in full]
            best, before = min(missed), min(missed[:-_LATELY])
            left = epochs - full[-1].spent
            gain = (before - best) / (full[-1].spent - full[-1 - _LATELY].spent)
            if best - gain * left > _LATE:
                weights = ", ".join(remedy.names)
                return (
                    f"{name} is out of reach: over {len(full)} stretches with the largest "
                    f"{weights} ({remedy.within[1]:g}) it missed its bound by {best:.3g} at best, "
                    f"and lately gained {gain:.2g} an epoch, with {left:.3g} epochs left"
                )
        return None


def _is_full(remedy: Remedy, stretch: Stretch) -> bool:
    return remedy.exhausted({name: stretch.hyperparameters[name] for name in remedy.names})


def _halves(measure: Any, candidates: int) -> tuple[Measure, Measure]:
    return measure.halves(candidates) if isinstance(measure, Constraint) else (measure, measure)


def _check_remedies(remedies: Mapping[str, Remedy], constraints: Sequence[Measure]) -> None:
    if not remedies:
        names = [name_of(each) for each in constraints]
        raise InvalidInputError(
            f"reach=True needs a constraint that offers a remedy, as RobustAccuracy with eps > 0 "
            f"does, but got {names}; see rlhf_tune.safety.remedy"
        )
    owners: dict[str, str] = {}
    for owner, remedy in remedies.items():
        for name in remedy.names:
            if name in owners:
                raise InvalidInputError(
                    f"each weight must belong to one constraint, but {name!r} would be moved by "
                    f"{owners[name]!r} and {owner!r}; leave one of them to a measurement afterwards"
                )
            owners[name] = owner
