"""Tuning inside one training run: one step moves learning rate and batch size for a stretch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlhf_tune import rewards
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.drift import p_safe
from rlhf_tune.run.guarded import GuardedRun, Mode, largest_batch
from rlhf_tune.run.stretch import Guard, Move, Stretch
from rlhf_tune.run.trainer import Trainer
from rlhf_tune.safety.constraint import Constraint

Observation = NDArray[np.float32]
Point = tuple[float, int | None]

FEATURES = (
    "performance",
    "best_performance",
    "trend",
    "loss_slope",
    "generalisation_gap",
    "log_rate",
    "log_batch_size",
    "log_rate_over_batch",
    "loss_spread",
    "budget_left",
    "rolled_back",
    "certified",
)
"""What an observation holds, before the margin to each constraint; see `TuningEnv`."""

_BOUND = 10.0
_STRETCHES = 25  # an episode, by default
_RATE_FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0)
_BATCH_FACTORS = (1.0, 0.5, 2.0)
_RATES = (1e-7, 100.0)
_GUARD = Guard()


class TuningEnv(gym.Env[Observation, np.int64]):
    """A training run as a Gymnasium environment, over any `Trainer`.

    An action multiplies the learning rate by one factor and the batch size by another (row 0 of
    `moves`: both by 1, "stay"), then trains a stretch. `rlhf_tune.run.guarded.GuardedRun`
    verifies it: one that diverges, ends much worse, or violates a constraint after a first state
    satisfied them all is rolled back to the best state, charged to the budget, and its move is
    masked in that state from then on. Masked are also moves out of `ranges`, and, once a state is
    certified, those whose probability to stay safe is predicted below `confidence`. A masked
    action is not carried out: its share of the budget is lost.

    The observation [12 + number of constraints] float32 is named by `features`, in units of the
    monitored metric before training (so -1 is the start, and for a loss 0 is perfect):
    `performance` of the state in hand and of the best one, the `trend` of the former and the
    `loss_slope` of the training loss since the stretch before, `generalisation_gap` (validation
    minus training loss), log10 of learning rate, batch size and their ratio, `loss_spread`, the
    standard deviation of the training loss over the batches of the last stretch (what there is of
    gradient noise without a second backward pass; 0 where the trainer does not report it), shares
    of 1 for the budget left, whether the last stretch was `rolled_back` and whether the best state
    is `certified`, and `margin NAME`: minus the cost of a constraint, 0 before it was measured.
    Values are clipped to ±10.

    `info` holds `action_mask` bool [A], `violation` (a constraint was violated by the last
    stretch), `verdict` ("committed", "diverged", "worse", "stalled", "violates", "masked"),
    `learning_rate`, `batch_size`, `value` of the monitored metric (lower is better), and `costs` by
    constraint.
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
        guard: Guard | None = _GUARD,
        ranges: Mapping[str, tuple[float, float]] | None = None,
        rate_factors: Sequence[float] = _RATE_FACTORS,
        batch_factors: Sequence[float] = _BATCH_FACTORS,
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
                8 steps of an epoch.
            rate_factors: The first one must be 1, as of `batch_factors`.
            batch_factors: Only 1 is used where the trainer has no batch size.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        self._trainer, self._constraints = trainer, tuple(constraints)
        self._reward = reward or rewards.gain
        self._confidence, self._guard = confidence, guard
        self._monitor, self._mode = monitor, mode
        self._first = trainer.snapshot()
        now = trainer.hyperparameters
        size = now.get("batch_size")
        self._size = None if size is None else int(size)
        self._budget = steps / trainer.steps_per_epoch
        self._stretch = stretch if stretch is not None else max(1, steps // _STRETCHES)
        _check(steps, self._stretch, confidence, rate_factors, batch_factors)
        sizes = batch_factors if self._size is not None else (1.0,)
        self.moves = tuple(itertools.product(rate_factors, sizes))
        largest = largest_batch(self._size or 1, trainer.steps_per_epoch)
        self._ranges = {"learning_rate": _RATES, "batch_size": (1, largest), **(ranges or {})}
        self.features = (*FEATURES, *(f"margin {c.name}" for c in self._constraints))
        self.observation_space = gym.spaces.Box(-_BOUND, _BOUND, (len(self.features),), np.float32)
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
            epochs=self._budget,
            constraints=self._constraints,
            monitor=self._monitor,
            mode=self._mode,
            guard=self._guard,
        )
        self._start = self._run.best.value
        self._here: Stretch | None = None  # that ended at the state in hand
        self._before: Stretch | None = None  # and the one before it
        self._tried: set[Point] = set()  # from the best state, and rolled back
        self._changes: dict[int, dict[str, list[float]]] = {}
        self._over = False
        return self._observation(), self._info("committed", None)

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
        best, spent = self._run.best, self._run.spent
        masked = not self.action_masks()[action]
        stretch = None if masked else self._attempt(int(action))
        if masked:
            self._run.charge(min(self._steps(), self._run.left))
        terminated = not self.action_masks().any()
        truncated = self._run.left < 1
        self._over = terminated or truncated
        change = rewards.Change(
            gain=self._improvement(best.value),
            total=self._improvement(self._start),
            moved=not masked and int(action) != 0,
            share=(self._run.spent - spent) / self._budget,
            rolled_back=stretch is not None and not stretch.committed,
            violation=stretch is not None and not stretch.satisfied,
            final=self._over,
        )
        info = self._info("masked" if stretch is None else stretch.verdict, stretch)
        return self._observation(), float(self._reward(change)), terminated, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which moves [A] are within the ranges, not tried in vain, and predicted to be safe.

        The prediction spares "stay", and is overruled if it would leave nothing.
        """
        actions = range(len(self.moves))
        possible = np.array([self._possible(action) for action in actions])
        likely = possible & [action == 0 or self._likely_safe(action) for action in actions]
        return likely if likely.any() else possible

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
        rate, size = self._target(action)
        moved = self.moves[action]
        name = "stay" if action == 0 else "rate x{:g}, batch x{:g}".format(*moved)
        changes = {"learning_rate": rate, **({} if size is None else {"batch_size": size})}
        self._run.set(Move(name, changes))
        steps = min(self._steps(), max(1, self._run.left))
        stretch = self._run.attempt(Move(name), steps)
        self._learn(action, stretch)
        if stretch.committed:
            self._before, self._here = self._here, stretch
        if self._run.best.stretch is stretch:
            self._tried = set()
        elif not stretch.committed:
            self._tried.add((rate, size))
            self._before, self._here = self._run.best.stretch, self._run.best.stretch
        return stretch

    def _learn(self, action: int, stretch: Stretch) -> None:
        if self._here is None:
            return
        seen = self._changes.setdefault(action, {})
        for name, measurement in stretch.measurements.items():
            before = self._here.measurements.get(name)
            if before is not None:
                seen.setdefault(name, []).append(measurement.cost - before.cost)

    def _possible(self, action: int) -> bool:
        rate, size = self._target(action)
        inside = _within(rate, self._ranges["learning_rate"])
        if size is not None:
            inside = inside and _within(size, self._ranges["batch_size"])
            inside = inside and size == self.moves[action][1] * self._now()[1]
        in_vain = self._here is self._run.best.stretch and (rate, size) in self._tried
        return inside and not in_vain

    def _likely_safe(self, action: int) -> bool:
        if self._here is None or not self._run.best.certified:
            return True
        changes = self._changes.get(action, {})
        return all(
            p_safe(measurement.cost, changes.get(name, ())) >= self._confidence
            for name, measurement in self._here.measurements.items()
        )

    def _now(self) -> tuple[float, float]:
        now = self._trainer.hyperparameters
        return now["learning_rate"], now.get("batch_size", 1.0)

    def _target(self, action: int) -> Point:
        (rate, size), (times, by) = self._now(), self.moves[action]
        return rate * times, None if self._size is None else int(size * by)

    def _steps(self) -> int:
        return max(1, round(self._stretch * (self._size or 1) / self._now()[1]))

    def _improvement(self, since: float) -> float:
        gained = (since - self._run.best.value) / self._run.unit
        return max(0.0, gained) if math.isfinite(gained) else 0.0

    def _observation(self) -> Observation:
        here, before, unit = self._here, self._before, self._run.unit
        value = self._start if here is None else here.value
        earlier = self._start if before is None else before.value
        rate, size = self._now()
        loss = here.training["loss"] if here else math.nan
        past = before.training["loss"] if before else math.nan
        validation = here.validation.get("val_loss", math.nan) if here else math.nan
        last = self._run.record[-1] if self._run.record else None
        costs = {n: m.cost for n, m in here.measurements.items()} if here else {}
        values = [
            -value / unit,
            -self._run.best.value / unit,
            (earlier - value) / unit,
            (loss - past) / unit,
            (validation - loss) / unit,
            math.log10(rate),
            math.log10(size),
            math.log10(rate / size),
            here.spread / unit if here else 0.0,
            1 - self._run.spent / self._budget,
            float(last is not None and not last.committed),
            float(self._run.best.certified),
            *(-costs.get(c.name, 0.0) for c in self._constraints),
        ]
        known = np.nan_to_num(np.array(values), nan=0.0, posinf=_BOUND, neginf=-_BOUND)
        return np.asarray(np.clip(known, -_BOUND, _BOUND), dtype=np.float32)

    def _info(self, verdict: str, stretch: Stretch | None) -> dict[str, Any]:
        rate, size = self._now()
        measured = {} if stretch is None else stretch.measurements
        return {
            "action_mask": self.action_masks(),
            "violation": stretch is not None and not stretch.satisfied,
            "verdict": verdict,
            "learning_rate": rate,
            "batch_size": None if self._size is None else int(size),
            "value": self._start if self._here is None else self._here.value,
            "costs": {name: m.cost for name, m in measured.items()},
        }


def _within(value: float, limits: tuple[float, float]) -> bool:
    low, high = limits
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def _check(
    steps: int,
    stretch: int,
    confidence: float,
    rate_factors: Sequence[float],
    batch_factors: Sequence[float],
) -> None:
    if not 1 <= stretch <= steps:
        raise InvalidInputError(
            f"1 <= stretch <= steps must hold, but got stretch={stretch}, steps={steps}"
        )
    if not 0 <= confidence < 1:
        raise InvalidInputError(f"`confidence` must be within [0, 1), but got {confidence}")
    for factors in (rate_factors, batch_factors):
        if not factors or factors[0] != 1 or min(factors) <= 0:
            raise InvalidInputError(
                f"factors must be above 0 and begin with 1 (stay), but got {list(factors)}"
            )
