"""Policies of one training run: which learning rate and batch size the next stretch gets.

A policy decides from what the run has recorded, and nothing else: the guard, the rollback and the
training are the environment's. Its parts are pure functions, so any loop can use them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run import dqn_moves
from rlhf_tune.run.schedules import DECAY_FROM, bold, constant, cut_and_decay, cut_and_grow
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Guard, Move

_PATIENCE = 0.15  # share of it that may pass before that with nothing new


@dataclass(frozen=True)
class RunPolicy:
    """How a training run is driven.

    Attributes:
        decide: The next move; None ends the run.
        guard: What is rolled back besides divergence and violations; None is nothing.
        range_test: Whether the first rate is looked for, or the given one taken.
        stretches: At least so many a run; an epoch is divided if it has fewer epochs.
        keeps_best: Whether the model ends at the best state, or at the last one.
    """

    decide: Callable[[RunState], Move | None]
    guard: Guard | None
    range_test: bool = False
    stretches: int = 12
    keeps_best: bool = True


def learned(state: RunState) -> Move:
    """`cut_and_decay` with the moves of the shipped Q-network on top of it."""
    return dqn_moves.decide(state, dqn_moves.shipped())


# A rate that leads nowhere is too large as well; once it falls by itself there is no need to cut.
_GUARD = Guard(patience=_PATIENCE, until=DECAY_FROM)

POLICIES = {
    "default": RunPolicy(cut_and_decay, _GUARD, range_test=True),
    "dqn": RunPolicy(learned, _GUARD, range_test=True),
    "grow": RunPolicy(cut_and_grow, _GUARD, range_test=True),
    "bold": RunPolicy(bold, Guard(0.0, 0.0)),
    "constant": RunPolicy(constant, None, stretches=1, keeps_best=False),
}
"""By name. "dqn" is "default" with learned moves, "grow" with a growing batch in place of a part
of the decay."""


def resolve(name: str | RunPolicy) -> RunPolicy:
    """The policy of a name; a policy is its own.

    Raises:
        InvalidInputError: If there is no policy of that name.
    """
    if isinstance(name, RunPolicy):
        return name
    if name not in POLICIES:
        raise InvalidInputError(f"`policy` must be one of {sorted(POLICIES)}, but got {name!r}")
    return POLICIES[name]
