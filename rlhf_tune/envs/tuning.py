"""Tuning inside one training run: one step moves learning rate and batch size for a stretch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlhf_tune import rewards
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.guarded import GuardedRun
from rlhf_tune.run.mode import Mode
from rlhf_tune.run.moves import BATCH_FACTORS, RATE_FACTORS, MoveSet
from rlhf_tune.run.observation import BOUND, FEATURES, MARGIN_BOUND, features, observation
from rlhf_tune.run.policies import GUARD, STRETCHES
from rlhf_tune.run.schedules import ADAPTIVE
from rlhf_tune.run.state import RunState, begin, later
from rlhf_tune.run.stretch import Guard, Stretch
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint

Observation = NDArray[np.float32]


class TuningEnv(gym.Env[Observation, np.int64]):
    """A training run as a Gymnasium environment, over any `Trainer`.

    An action multiplies the learning rate by one factor and the batch size by another (row 0 of
    `moves`: both by 1, "stay"), then trains a stretch. `rlhf_tune.run.guarded.GuardedRun`
    verifies it: one that diverges, ends much worse, or violates a constraint after a first state
    satisfied them all is rolled back to the best state, charged to the budget, and its move is
    masked in that state from then on. Masked are also moves out of `ranges`, and, once a state is
    certified, those whose probability to stay safe is predicted below `confidence`. A masked
    action is not carried out: its share of the budget is lost.

    The observation [19 + number of constraints] float32 is named by `features`: what
    `rlhf_tune.run.observation.observation` makes of the run, so that an agent that learned here
    drives `fit` by `rlhf_tune.run.RunPolicy.of`. The other way round, the policies of `fit` play
    here by `rlhf_tune.envs.Follower`.

    `info` holds `action_mask` bool [A], `violation` (a constraint was violated by the last
    stretch), `verdict` ("committed", "diverged", "worse", "stalled", "violates", "out of memory",
    "masked"), `learning_rate`, `batch_size`, `value` of the monitored metric (lower is better),
    `costs` by constraint, and `outcomes`, what people would be shown of the run so far.
    An episode is truncated when the budget is spent, and terminates if every move is masked.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration

    def __init__(
        self,
        trainer: Trainer[Any],
        *,
        steps: int,
        constraints: Sequence[Constraint] = (),
        reward: rewards.Reward | None = None,
        confidence: float = 0.5,
        stretch: int | None = None,
        monitor: str = "val_loss",
        mode: Mode = "min",
        guard: Guard | None = GUARD,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        rate_factors: Sequence[float] = RATE_FACTORS,
        batch_factors: Sequence[float] = BATCH_FACTORS,
        usual_rate: float = ADAPTIVE,
    ) -> None:
        """Take charge of a trainer; its state now is where every episode begins.

        Args:
            trainer: What is driven.
            steps: The budget: optimizer steps at the batch size of the beginning. It is kept in
                samples, so that a larger batch makes fewer steps.
            constraints: Measured on the trainer's model after every stretch.
            reward: Of what a move brought; default `rlhf_tune.rewards.gain`.
            confidence: The predicted probability to stay safe below which a move is masked.
            stretch: Steps of an action, likewise; default a 25th of the budget.
            monitor: The metric by which states are compared.
            mode: Whether less of it is better.
            guard: How much worse than the best a stretch may end, and for how long; None allows
                anything finite.
            ranges: Of "learning_rate" and "batch_size"; default 1e-7 to 100, and 1 to what leaves
                8 steps of an epoch and one of the budget.
            rate_factors: The first one must be 1, as of `batch_factors`.
            batch_factors: Only 1 is used where the trainer has no batch size.
            usual_rate: The default learning rate of the framework for this optimizer, to which
                rates are compared; those a thousand times away and further look alike.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._trainer, self._constraints = trainer, tuple(constraints)
        self._reward, self._guard = reward or rewards.gain, guard
        self._monitor, self._mode, self._usual_rate = monitor, mode, usual_rate
        self._first, now = trainer.snapshot(), trainer.hyperparameters
        self._epochs, self._size = steps / trainer.steps_per_epoch, now.get("batch_size", 1.0)
        self._stretch = max(1, steps // STRETCHES) if stretch is None else stretch
        if not 1 <= self._stretch <= steps:
            raise InvalidInputError(
                f"1 <= stretch <= steps must hold, but got stretch={self._stretch}, steps={steps}"
            )
        limits = dict(ranges or {})
        self._sizes = _whole(limits.get("batch_size"))
        sizes = batch_factors if "batch_size" in now else batch_factors[:1]
        factors = {"learning_rate": rate_factors, "batch_size": sizes}
        self.move_set = MoveSet(factors, limits, confidence)
        self.moves = tuple((by["learning_rate"], by["batch_size"]) for by in self.move_set.actions)
        self.features = features([c.name for c in self._constraints])
        self.observation_space = _space(len(self._constraints))
        self.action_space = gym.spaces.Discrete(len(self.moves))
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Go back to the beginning; `options` may set another learning rate or batch size there."""
        super().reset(seed=seed, options=options)
        self._trainer.restore(self._first)
        if options:
            self._trainer.set(**options)
        self._run = GuardedRun(
            self._trainer,
            epochs=self._epochs,
            constraints=self._constraints,
            monitor=self._monitor,
            mode=self._mode,
            guard=self._guard,
        )
        self._value = self._run.best.value  # of the state where the episode begins
        self._start = begin(self._run, usual_rate=self._usual_rate, batch_sizes=self._sizes)
        self._over, self._moves = False, 0
        return self._seen(), self._info("committed", None)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move, train a stretch, verify it, and commit it or go back.

        Raises:
            InvalidInputError: If the episode is over, or there is no such action.
        """
        if self._over or not self.action_space.contains(action):
            raise InvalidInputError(
                f"an episode must be going on and the action be below {len(self.moves)}, but got "
                f"{action} ({'over' if self._over else 'going on'}); call reset()"
            )
        best, spent, before = self._run.best, self._run.spent, self._outcomes()
        stretch = self._attempt(int(action)) if self.action_masks()[action] else None
        if stretch is None:
            self._run.charge(min(self._steps(), self._run.left))
        terminated = not self.action_masks().any()
        truncated = self._run.left < 1
        self._over = terminated or truncated
        moved = stretch is not None and int(action) != 0
        self._moves += moved
        change = rewards.Change(
            gain=self._improvement(best.value),
            total=self._improvement(self._value),
            moved=moved,
            share=(self._run.spent - spent) / self._epochs,
            rolled_back=stretch is not None and not stretch.committed,
            violation=stretch is not None and not stretch.satisfied,
            final=self._over,
            costs=_costs(stretch),
            outcomes=self._outcomes(),
            before=before,
        )
        info = self._info("masked" if stretch is None else stretch.verdict, stretch)
        return self._seen(), float(self._reward(change)), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which moves [A] are within the ranges, not tried in vain, and predicted to be safe.

        The prediction spares "stay", and is overruled if it would leave nothing.
        """
        return self.move_set.mask(self.state)

    @property
    def state(self) -> RunState:
        """What a policy of `fit` would know now."""
        return later(self._start, self._run, min(self._steps(), self._run.left))

    def hand_back(self) -> Any:
        """Leave the trainer at the best state; returns its model.

        Raises:
            CannotCertify: If no state satisfied the constraints.
        """
        self._run.hand_back(best=True)
        return self._trainer.model

    @property
    def record(self) -> Sequence[Stretch]:
        """Every stretch of the episode."""
        return self._run.record

    def _attempt(self, action: int) -> Stretch:
        move = self.move_set.move(self.state, action)
        self._run.set(move)
        return self._run.attempt(move, min(self._steps(), max(1, self._run.left)))

    def _steps(self) -> int:
        """Of a stretch, at the batch size in effect."""
        size = self._run.hyperparameters.get("batch_size", 1.0)
        return max(1, round(self._stretch * self._size / size))

    def _improvement(self, since: float) -> float:
        gained = (since - self._run.best.value) / self._run.unit
        return max(0.0, gained) if math.isfinite(gained) else 0.0

    def _outcomes(self) -> dict[str, float]:
        """What people would be shown of the run so far: its best state, and the moves made."""
        best = self._run.best.stretch
        metrics = self._run.validation if best is None else best.validation
        measured = self._run.start if best is None else best.measurements
        costs = {name: m.cost for name, m in measured.items()}
        return {**metrics, **costs, "moves": float(self._moves)}

    def _seen(self) -> Observation:
        return observation(self.state)

    def _info(self, verdict: str, stretch: Stretch | None) -> dict[str, Any]:
        now, here = self._run.hyperparameters, self._run.here
        return {
            "action_mask": self.action_masks(),
            "violation": stretch is not None and not stretch.satisfied,
            "verdict": verdict,
            "learning_rate": now["learning_rate"],
            "batch_size": now.get("batch_size"),
            "value": self._value if here is None else here.value,
            "costs": _costs(stretch),
            "outcomes": self._outcomes(),
        }


def _costs(stretch: Stretch | None) -> dict[str, float]:
    return {} if stretch is None else {name: m.cost for name, m in stretch.measurements.items()}


def _space(constraints: int) -> gym.spaces.Space[Observation]:
    """Of observations, with the margins of so many constraints."""
    bounds = np.full(len(FEATURES) + constraints, BOUND, dtype=np.float32)
    bounds[len(FEATURES) :] = MARGIN_BOUND
    return gym.spaces.Box(-bounds, bounds)


def _whole(limits: tuple[float, float] | None) -> tuple[int, int] | None:
    return None if limits is None else (math.ceil(limits[0]), int(min(limits[1], sys.maxsize)))
