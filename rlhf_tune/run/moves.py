"""The moves of a training run: factors of its hyperparameters, and which of them are open."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.drift import p_safe
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Move, Stretch

RATE_FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0)
BATCH_FACTORS = (1.0, 0.5, 2.0)
FACTORS: Mapping[str, Sequence[float]] = {
    "learning_rate": RATE_FACTORS,
    "batch_size": BATCH_FACTORS,
}
"""Of each hyperparameter that is moved; the first one stays."""

_RATES = (1e-7, 100.0)
_TINY = 1e-30  # a rate that is 0 counts as this
_ROUNDING = 1e-6  # relative: a framework may keep a rate in single precision
_SHORT = {"learning_rate": "rate", "batch_size": "batch"}


def named(factors: Mapping[str, float]) -> str:
    """What multiplying by some factors is called in the record, as in "rate x2, batch x0.5"."""
    moved = [f"{_SHORT.get(key, key)} x{by:g}" for key, by in factors.items() if by != 1]
    return ", ".join(moved) or "stay"


@dataclass(frozen=True)
class MoveSet:
    """Moves that multiply the hyperparameters in effect, one factor for each.

    An action is the number of a combination of factors; action 0 stays. Those that move what a
    trainer does not have are masked.

    Attributes:
        factors: By hyperparameter, the first one 1.
        ranges: Out of which none is moved; default 1e-7 to 100 for the learning rate, and whatever
            the run allows for the batch size.
        confidence: The predicted probability to stay safe below which a move is masked.
    """

    factors: Mapping[str, Sequence[float]] = field(default_factory=lambda: FACTORS)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    confidence: float = 0.5

    def __post_init__(self) -> None:
        """Check.

        Raises:
            InvalidInputError: If an attribute breaks its rule.
        """
        if not 0 <= self.confidence < 1:
            raise InvalidInputError(
                f"`confidence` must be within [0, 1), but got {self.confidence}"
            )
        for factors in self.factors.values():
            if not factors or factors[0] != 1 or min(factors) <= 0:
                raise InvalidInputError(
                    f"factors must be above 0 and begin with 1 (stay), but got {list(factors)}"
                )

    @property
    def actions(self) -> list[dict[str, float]]:
        """The factors of each action [A], by hyperparameter."""
        every = itertools.product(*self.factors.values())
        return [dict(zip(self.factors, each, strict=True)) for each in every]

    def move(self, state: RunState, action: int) -> Move:
        """An action as a move: it sets what it changes."""
        factors = self.actions[action]
        wanted = _target(state, factors)
        return Move(named(factors), {key: wanted[key] for key, by in factors.items() if by != 1})

    def mask(self, state: RunState) -> NDArray[np.bool_]:
        """Which actions [A] are within the ranges, not tried in vain, and predicted to be safe.

        Tried in vain is what was rolled back since the best state was reached, if that is the state
        in hand. The prediction is asked for once a state is certified; it spares "stay", and is
        overruled if it would leave nothing.
        """
        every = self.actions
        in_vain = _rolled_back(state) if state.here is state.best else []
        possible = np.array([self._possible(state, factors, in_vain) for factors in every])
        likely = possible & [i == 0 or self._likely_safe(state, f) for i, f in enumerate(every)]
        return likely if likely.any() else possible

    def nearest(self, state: RunState, move: Move) -> int:
        """The open action that comes nearest to a move, in logarithms; 0 where none is open."""
        wanted = {**state.now, **move.hyperparameters}
        off = [
            sum(_apart(wanted[key], value) for key, value in _exact(state, factors).items())
            for factors in self.actions
        ]
        return int(np.where(self.mask(state), off, np.inf).argmin())

    def _possible(
        self, state: RunState, factors: Mapping[str, float], in_vain: Sequence[Stretch]
    ) -> bool:
        target = _target(state, factors)
        if any(by != 1 for key, by in factors.items() if key not in target):
            return False
        limits = {"learning_rate": _RATES, **self.ranges}
        inside = all(_within(target[key], limits[key]) for key in limits.keys() & target.keys())
        if "batch_size" in target:
            inside &= target == _exact(state, factors)  # a batch is a whole number of samples
            inside &= _within(target["batch_size"], state.batch_sizes or (1, math.inf))
        return inside and not any(_same(target, stretch) for stretch in in_vain)

    def _likely_safe(self, state: RunState, factors: Mapping[str, float]) -> bool:
        if state.here is None or not state.certified:
            return True
        before = [s.drift for s in state.record if s.move == named(factors)]
        return all(
            p_safe(m.cost, [drift[key] for drift in before if key in drift]) >= self.confidence
            for key, m in state.here.measurements.items()
        )


def _exact(state: RunState, factors: Mapping[str, float]) -> dict[str, float]:
    """What some factors lead to, of what the trainer has."""
    return {key: state.now[key] * by for key, by in factors.items() if key in state.now}


def _target(state: RunState, factors: Mapping[str, float]) -> dict[str, float]:
    """The same, with a whole batch size."""
    exact = _exact(state, factors)
    return {key: int(value) if key == "batch_size" else value for key, value in exact.items()}


def _apart(one: float, other: float) -> float:
    return abs(math.log(max(one, _TINY) / max(other, _TINY)))


def _rolled_back(state: RunState) -> list[Stretch]:
    """The stretches that were discarded since the best state was reached."""
    ends = (i for i, stretch in enumerate(state.record) if stretch is state.best)
    return [s for s in state.record[next(ends, -1) + 1 :] if not s.committed]


def _same(target: Mapping[str, float], stretch: Stretch) -> bool:
    return all(
        math.isclose(value, stretch.hyperparameters[key], rel_tol=_ROUNDING)
        for key, value in target.items()
    )


def _within(value: float, limits: tuple[float, float]) -> bool:
    low, high = limits
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)
