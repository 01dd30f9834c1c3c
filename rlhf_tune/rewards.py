"""Rewards of a training run: terms that are functions of what a move brought, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


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
    """

    gain: float
    total: float
    moved: bool
    share: float
    rolled_back: bool
    violation: bool
    final: bool
    costs: Mapping[str, float] = field(default_factory=dict)


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


def total(*terms: Reward) -> Reward:
    """The sum of terms."""
    return lambda change: sum(term(change) for term in terms)
