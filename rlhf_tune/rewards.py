"""Rewards of a training run: terms that are functions of what a move brought, and their sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from rlhf_tune.ascent import ascend
from rlhf_tune.errors import InvalidInputError

_UNTRUSTED = 1.0  # by so much a bound counts as missed where the measurement is not trusted


@dataclass(frozen=True)
class Change:
    """What one move of a training run brought.

    Performance is on a scale where the state before training is -1 and more is better (for a loss
    0 is perfect).

    Attributes:
        gain: By how much the best state so far improved; 0 or more.
        total: The same, since the start of the episode.
        moved: Whether a hyperparameter was changed.
        share: Of the budget, spent by this move.
        rolled_back: Whether the stretch was discarded.
        violation: Whether it was discarded, or would be, for a constraint.
        final: Whether the episode is over.
        costs: Of each constraint at the end of the stretch, by name, at most 0 where it holds;
            empty where nothing was measured.
        outcomes: What people would be shown of the best state now: the metrics there, the costs
            of constraints, and "moves", how often a hyperparameter was changed.
        before: The same before the move.
    """

    gain: float
    total: float
    moved: bool
    share: float
    rolled_back: bool
    violation: bool
    final: bool
    costs: Mapping[str, float] = field(default_factory=dict)
    outcomes: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)


Reward = Callable[[Change], float]


def gain(change: Change) -> float:
    """The gain of the best state; over an episode it sums to the total."""
    return change.gain


def final_gain(change: Change) -> float:
    """The total gain, paid at the end.

    A reward for the next interval alone favours learning rates that are far too small (Wu et al.
    2018, arXiv:1803.02021); this one does not, with a discount near 1.
    """
    return change.total if change.final else 0.0


def switching(cost: float) -> Reward:
    """Minus `cost` for every change of a hyperparameter; gains are of the order of .01."""
    return lambda change: -cost * change.moved


def spending(cost: float) -> Reward:
    """Minus `cost` for the whole budget, in proportion to what was spent."""
    return lambda change: -cost * change.share


def violating(cost: float) -> Reward:
    """Minus `cost` for every stretch that violates a constraint."""
    return lambda change: -cost * change.violation


def penalty(constraint: Any, weight: float) -> Reward:
    """Minus `weight` for each unit by which a constraint is missed at the end of a stretch.

    Args:
        constraint: One that the run measures, or its name.
        weight: At least 0; gains are of the order of .01.

    Raises:
        InvalidInputError: If the weight is negative, or the constraint has no name.
    """
    if not weight >= 0:
        raise InvalidInputError(f"`weight >= 0` must hold, but got {weight}")
    name = _name_of(constraint)
    return lambda change: -weight * max(0.0, _missed(change, name))


@final
class Lagrangian:
    """Minus a multiplier for each unit by which a constraint is missed, learned by dual ascent.

    As a reward of a training run's environment it pays at the end of each stretch, also for what
    is kept with a margin, and ascends after each episode, by the mean of that episode.
    `rlhf_tune.envs.FairnessCost` asks for its multiplier and ascends on gaps of decisions.

    Iterates of dual ascent go around the optimum. Take the mean of the policies along the way, as
    `rlhf_tune.envs.AveragedPolicy` does, or the best that keeps the bound.

    Attributes:
        multiplier: In effect, in units of the reward.
        history: Of the multiplier, the first one included.
    """

    def __init__(
        self,
        constraint: Any,
        at_most: float | None = None,
        *,
        start: float = 0.0,
        gain: float = 0.1,
        most: float = math.inf,
    ) -> None:
        """Begin.

        Args:
            constraint: One that the run measures, or its name.
            at_most: The ceiling, if it is another than the constraint's own.
            start: The first multiplier.
            gain: Step of the multiplier per unit missed.
            most: The largest multiplier.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        if not (0 <= start <= most and gain > 0):
            raise InvalidInputError(
                f"`0 <= start <= most` and `gain > 0` must hold, but got start={start}, "
                f"most={most}, gain={gain}"
            )
        self._name, self.at_most = _name_of(constraint), at_most
        self._shift = 0.0 if at_most is None else _own_ceiling(constraint, at_most) - at_most
        self._gain, self._most = gain, most
        self._episode: list[float] = []
        self.multiplier = start
        self.history = [start]

    def __call__(self, change: Change) -> float:
        """The term of a reward."""
        missed = _missed(change, self._name) + self._shift if self._name in change.costs else 0.0
        self._episode.append(missed)
        paid = -self.multiplier * missed
        if change.final:
            self.ascend(sum(self._episode) / len(self._episode))
            self._episode = []
        return paid

    def ascend(self, missed: float) -> None:
        """Move the multiplier; `missed` is negative where the bound is kept."""
        within = 0.0, self._most
        self.multiplier = ascend(self.multiplier, missed, gain=self._gain, within=within)
        self.history.append(self.multiplier)


def _name_of(constraint: Any) -> str:
    name = getattr(constraint, "name", constraint)
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"a constraint or its name must be given, but got {constraint!r}")
    return name


def _own_ceiling(constraint: Any, at_most: float) -> float:
    """The ceiling from which its costs count; of a mere name, the one given."""
    if isinstance(constraint, str):
        return at_most
    if not hasattr(constraint, "at_most"):
        raise InvalidInputError(
            f"`at_most` must be left out for a constraint that has no ceiling of its own, but got "
            f"at_most={at_most} for {constraint.name!r}"
        )
    return float(constraint.at_most)


def _missed(change: Change, name: str) -> float:
    """By how much the bound is missed; 0 where nothing was measured."""
    cost = change.costs.get(name, 0.0)
    return cost if math.isfinite(cost) else _UNTRUSTED


class Utility(Protocol):
    """What gives a utility to outcomes, as `rlhf_tune.feedback.RewardModel` does."""

    def predict(self, outcomes: Any, /) -> tuple[Any, Any]:
        """The mean and the standard deviation [N] of utilities of outcomes [N, D]."""
        ...


Known = Callable[[Mapping[str, float]], float]
"""A utility that is known: a function of the outcomes by name."""


def preference(
    model: Utility | Known, pessimism: float = 1.0, *, names: Sequence[str] | None = None
) -> Reward:
    """The gain of a learned utility; over an episode it sums to that of its outcome.

    The utility counts at its mean less `pessimism` deviations, so that nothing is gained by
    outcomes that the model has not seen the like of.

    Args:
        model: A reward model, or anything with its `predict`; or a function of the outcomes by
            name, as a reference to compare with.
        pessimism: In standard deviations, at least 0.
        names: Of the outcomes, in the order of the model's columns; default ``model.names``.

    Raises:
        InvalidInputError: If `pessimism` is below 0, or nobody says which outcomes are meant;
            within a run, if it has no such outcomes.
    """
    if not hasattr(model, "predict"):
        known = model  # a name of its own, so that types are narrowed in the function
        return lambda change: float(known(change.outcomes)) - float(known(change.before))
    wanted = tuple(names or getattr(model, "names", None) or ())
    if not pessimism >= 0 or not wanted:
        raise InvalidInputError(
            f"pessimism >= 0 must hold and the outcomes have names, but got pessimism={pessimism}, "
            f"names={wanted}; give RewardModel(names=...) or names="
        )

    def worth(outcomes: Mapping[str, float]) -> float:
        missing = [name for name in wanted if name not in outcomes]
        if missing:
            raise InvalidInputError(
                f"a run must have the outcomes that its reward model asks for, but it has "
                f"{sorted(outcomes)} and not {missing}"
            )
        mean, deviation = model.predict([[outcomes[name] for name in wanted]])
        return float(mean[0]) - pessimism * float(deviation[0])

    return lambda change: worth(change.outcomes) - worth(change.before)


def total(*terms: Reward) -> Reward:
    """The sum of terms."""
    return lambda change: sum(term(change) for term in terms)
