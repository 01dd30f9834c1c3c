"""The policies of `fit`, played in `TuningEnv`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, final

from rlhf_tune.envs.tuning import TuningEnv
from rlhf_tune.run.policies import RunPolicy, resolve


@final
class Follower:
    """An agent that makes, of the moves that are open, the one nearest to what a policy decides.

        follower = Follower(env, "bold")
        env.step(follower.act())

    The environment has no range test and guards by its own rules, so a policy that has its own is
    compared by its moves alone.
    """

    def __init__(self, env: TuningEnv, policy: str | RunPolicy) -> None:
        """Follow a policy.

        Args:
            env: In which it plays; without wrappers.
            policy: A name or a policy, as `fit` takes it.

        Raises:
            InvalidInputError: If there is no policy of that name.
        """
        self._env, self._policy = env, resolve(policy)
        self._factors: list[float] = []  # of the policy's own moves, its notes to itself

    def act(self, observation: Any = None, mask: Any = None) -> int:
        """The action; 0, to stay, where the policy would end the run.

        Both arguments are there because agents have them: what is decided from is the run.
        """
        state, move_set = self._env.state, self._env.move_set
        del self._factors[len(state.record) :]
        self._factors += [1.0] * (len(state.record) - len(self._factors))  # moves of somebody else
        noted = zip(state.record, self._factors, strict=True)
        own = [replace(stretch, factor=factor) for stretch, factor in noted]
        move = self._policy.decide(replace(state, record=own))
        if move is None:
            return 0
        self._factors.append(move.factor)
        return move_set.nearest(state, move)
