"""Rewards of a training run: terms that are functions of what a move brought, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlhf_tune.errors import InvalidInputError


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
