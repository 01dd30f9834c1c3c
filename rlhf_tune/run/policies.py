"""Policies of one training run: which learning rate and batch size the next stretch gets.

A policy decides from what the run has recorded, and nothing else: the guard, the rollback and the
training are the environment's. Its parts are pure functions, so any loop can use them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run import dqn_moves
from rlhf_tune.run.moves import MoveSet
from rlhf_tune.run.observation import observation
from rlhf_tune.run.schedules import DECAY_FROM, bold, constant, cut_and_decay, cut_and_grow
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Guard, Move

STRETCHES = 25
"""Of a run that an agent drives, and of an episode of `TuningEnv`, by default."""

GUARD = Guard()
"""Likewise."""

# Share of the budget that may pass with nothing new, by the default policy; chosen on train and
# validation tasks.
_PATIENCE = 0.15


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

    @classmethod
    def of(
        cls,
        agent: Any,
        *,
        moves: MoveSet | None = None,
        guard: Guard | None = GUARD,
        stretches: int = STRETCHES,
    ) -> Self:
        """An agent that learned in `TuningEnv` drives a run, by the same rules.

        It sees what it saw there (`rlhf_tune.run.observation.observation`), and its moves multiply
        the hyperparameters in effect by the same factors, under the same mask: those of the
        default `TuningEnv`, unless told otherwise. The batch size changes between epochs only. The
        run begins at the rate that the optimizer has. A move against the mask is not made: the
        agent stays; the run ends where not even that is open, as an episode does.

        Args:
            agent: Has `act(observation, mask)`, which returns the number of an action, or else
                `predict(observation, deterministic=True)`, which returns a pair that begins with
                it, as agents of stable-baselines3 do; `predict` is told `action_masks` if it takes
                them. Observations are [19 + C] float32 for C constraints, masks [A] bool; a table
                (`QLearning`) needs a wrapper that makes states of them.
            moves: `TuningEnv.move_set` of the environment, where it is not the default one.
            guard: Of the environment.
            stretches: Of an episode.

        Raises:
            InvalidInputError: If the agent has neither `act` nor `predict`; within a run, if one of
                stable-baselines3 learned on other features or moves.
        """
        choose, open_moves = _chooser(agent), moves or MoveSet()

        def decide(state: RunState) -> Move | None:
            mask = open_moves.mask(state)
            action = choose(observation(state), mask) if mask.any() else 0
            action = action if mask[action] else 0
            return open_moves.move(state, action) if mask[action] else None

        return cls(decide, guard, stretches=stretches)


Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], int]


def _chooser(agent: Any) -> Choose:
    """How to ask an agent for an action."""
    if hasattr(agent, "act"):
        return lambda seen, mask: int(agent.act(seen, mask))
    if not hasattr(agent, "predict"):
        raise InvalidInputError(
            f"an agent must have act(observation, mask) or predict(observation), but got "
            f"{type(agent).__name__}; give it one of them"
        )
    masked = "action_masks" in inspect.signature(agent.predict).parameters

    def choose(seen: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
        _check(agent, seen, mask)
        told = {"action_masks": mask} if masked else {}
        return int(agent.predict(seen, deterministic=True, **told)[0])

    return choose


def _check(agent: Any, seen: NDArray[np.float32], mask: NDArray[np.bool_]) -> None:
    """That a run looks as what an agent of stable-baselines3 learned on."""
    if not hasattr(agent, "observation_space") or not hasattr(agent, "action_space"):
        return
    learned_on = int(agent.observation_space.shape[0]), int(agent.action_space.n)
    if learned_on != (len(seen), len(mask)):
        raise InvalidInputError(
            f"a run must have the features and moves that its agent learned on, but it has "
            f"{len(seen)} features and {len(mask)} moves, and the agent {learned_on[0]} features "
            f"and {learned_on[1]} moves; name as many constraints in both, and give "
            f"moves=env.move_set"
        )


def learned(state: RunState) -> Move:
    """`cut_and_decay` with the moves of the shipped Q-network on top of it."""
    return dqn_moves.decide(state, dqn_moves.shipped())


# A rate that leads nowhere is too large as well; once it falls by itself there is no need to cut.
_GUARD = Guard(patience=_PATIENCE, until=DECAY_FROM, spikes=True)

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
