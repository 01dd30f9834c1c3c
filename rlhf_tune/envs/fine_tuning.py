"""Fine-tuning by layer group as an environment: a decision is a group and an operation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.fine_tuning import observation
from rlhf_tune.fine_tuning.groups import GroupsLike, Layers
from rlhf_tune.fine_tuning.operations import OPERATIONS, GroupTrainer, Operation
from rlhf_tune.fine_tuning.process import FineTuning, Tuned
from rlhf_tune.run.mode import ModeName
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.measurement import Constraint

Observation = NDArray[np.float32]


class FineTuningEnv(gym.Env[Observation, np.int64]):
    """Fine-tuning of a trained model as a Gymnasium environment, over any `Trainer`.

    An action is a group of layers and an operation on it: skip (the group, this time), tune, tune
    slowly, stop (the episode); `decode` names both. Training changes the chosen group alone,
    statistics included. It is verified like any stretch of a run: what diverges, or violates a
    constraint after a state satisfied them all, is taken back to the best state, and masked in
    that state from then on. A masked action is not carried out; it costs a decision.

    The reward is the gain of the metric on the validation data, less the cost of tuning, less that
    of changing another group than before. The observation [7 + 8 groups + task] float32, within
    +-5, is named by `features`; its features depend neither on architecture nor on size.

    `info` holds `action_mask` bool [A], `metric`, `gain`, `tune_cost`, `switch_cost`, `group`,
    `operation`, `verdict`, and `violation` (the constraints took this decision back). An episode
    terminates by "stop", and is truncated after `steps` decisions.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration

    def __init__(
        self,
        trainer: Trainer[Any],
        groups: GroupsLike = "auto",
        *,
        switch_cost: float = 0.01,
        tune_cost: float = 0.01,
        steps: int = 10,
        stretch: int | None = None,
        constraints: Sequence[Constraint] = (),
        monitor: str | None = None,
        mode: ModeName = "auto",
        operations: Sequence[Operation] = OPERATIONS,
        task: Sequence[float] = (),
        layers: Layers | None = None,
    ) -> None:
        """Take charge of a trainer; its state now is where every episode begins.

        Args:
            trainer: Over the model; it goes on at its learning rate, which "tune" keeps.
            groups: "auto" (stem, blocks, head and all), a number of parts, names or patterns, or a
                mapping of names to patterns; see `rlhf_tune.fine_tuning.describe_groups`.
            switch_cost: Of changing another group than the last one, on the scale of gains.
            tune_cost: Of each training.
            steps: Decisions of an episode.
            stretch: Optimizer steps of a training; default an epoch.
            constraints: Measured on the trainer's model after every training.
            monitor: The validation metric; default "val_accuracy" where there is one, else
                "val_loss".
            mode: Whether less of it is better.
            operations: On a group; the first must do nothing. Your own may `change` the layers.
            task: Numbers that tell one task from another, for agents that learn several; they are
                the end of each observation.
            layers: Of the model, where its framework has no adapter.

        Raises:
            InvalidInputError: If an argument breaks its rule.
            UnsupportedModelError: If the model has no layers that can be trained.
        """
        for name, cost in {"switch_cost": switch_cost, "tune_cost": tune_cost}.items():
            if not cost >= 0:
                raise InvalidInputError(f"{name} >= 0 must hold, but got {cost}")
        self.tuning = FineTuning(
            GroupTrainer(trainer, groups, operations, layers=layers),
            operations,
            steps=steps,
            stretch=stretch,
            constraints=constraints,
            monitor=monitor,
            mode=mode,
        )
        self._switch_cost, self._tune_cost = switch_cost, tune_cost
        self._task = np.asarray(task, dtype=np.float32)
        self.groups = self.tuning.trainer.groups
        self.features = observation.names(self.tuning.names, len(self._task))
        bounds = np.full(len(self.features), observation.BOUND, dtype=np.float32)
        bounds[len(bounds) - len(self._task) :] = np.inf
        self.observation_space = gym.spaces.Box(-bounds, bounds)
        self.action_space = gym.spaces.Discrete(self.tuning.actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Go back to the beginning: weights, optimizer, random streams and the place in the data.

        `options={"task": [...]}` changes the task's numbers.
        """
        super().reset(seed=seed, options=options)
        if options and "task" in options:
            self._task = np.asarray(options["task"], dtype=np.float32).reshape(self._task.shape)
        self.tuning.begin()
        return self._seen(), self._info(None)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out a decision; a masked one is lost.

        Raises:
            InvalidInputError: If the episode is over, or there is no such action.
        """
        tuned = self.tuning.step(int(action))
        reward = tuned.gain - self._costs(tuned)["tune_cost"] - self._costs(tuned)["switch_cost"]
        reward += self._bonus(tuned)
        stopped = self.tuning.stopped
        return (
            self._seen(),
            float(reward),
            stopped,
            self.tuning.over and not stopped,
            self._info(tuned),
        )

    def decode(self, action: int) -> tuple[str, str]:
        """The names of the group and the operation of an action."""
        return self.tuning.decode(action)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions [A] are open."""
        return self.tuning.mask()

    def hand_back(self) -> Any:
        """Leave the trainer at the best state of the episode; returns its model.

        Raises:
            CannotCertify: If no state satisfied the constraints.
        """
        return self.tuning.hand_back()

    @property
    def record(self) -> Sequence[Tuned]:
        """The decisions of the episode."""
        return self.tuning.record

    def _costs(self, tuned: Tuned) -> dict[str, float]:
        tuning = self._tune_cost if tuned.epochs else 0.0
        return {
            "tune_cost": tuning,
            "switch_cost": self._switch_cost if tuned.switched else 0.0,
        }

    def _bonus(self, tuned: Tuned) -> float:
        kept = tuned.verdict == "committed"
        return sum(o.bonus for o in self.tuning.operations if kept and o.name == tuned.operation)

    def _seen(self) -> Observation:
        return np.concatenate([self.tuning.seen(), self._task])

    def _info(self, tuned: Tuned | None) -> dict[str, Any]:
        return {
            "action_mask": self.action_masks(),
            "metric": self.tuning.metric,
            "gain": 0.0 if tuned is None else tuned.gain,
            **({"tune_cost": 0.0, "switch_cost": 0.0} if tuned is None else self._costs(tuned)),
            "group": None if tuned is None else tuned.group,
            "operation": None if tuned is None else tuned.operation,
            "verdict": None if tuned is None else tuned.verdict,
            "violation": tuned is not None and tuned.verdict == "violates",
        }
