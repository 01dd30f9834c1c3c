"""The DQN's moves within a training run, on top of the default policy.

At each stretch a small Q-network multiplies the rate of `rlhf_tune.run.schedules.cut_and_decay`,
and then, given that move, changes the batch size (sequential decisions beat joint ones:
arXiv:2407.05789). What counts is how much a move is worth more than to stay,

    A(s, m) = f(s, m) - f(s, stay)

so an untrained network, whose output layer is zero, always stays: it *is* the default policy.
`python -m benchmarks.pretrain_moves` trains f on the returns at the end of simulated and real runs.
Range test, warm-up, guard, rollback and decay are the controller's, whatever it says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.network import Network
from rlhf_tune.agents.network import load as load_network
from rlhf_tune.agents.network import save as save_network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run import observation
from rlhf_tune.run.moves import BATCH_FACTORS, RATE_FACTORS, named
from rlhf_tune.run.observation import FEATURES, Floats
from rlhf_tune.run.schedules import cut_and_decay
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.tensors import SHIPPED

MOVES = np.array(
    [(math.log2(f) / 2, 0.0) for f in RATE_FACTORS] + [(0.0, math.log2(f)) for f in BATCH_FACTORS]
)
"""[A, 2] the moves as the network sees them: first those of the rate, then those of the batch."""

_MOST = 64.0  # the moves together change the rate at most by this
_FEWEST = 2  # committed stretches before the first move: a slope needs them
_SMALLEST_BATCH = 8  # that is not shrunk further


@dataclass(frozen=True, eq=False)
class RunNetwork:
    """f, and when it may move.

    Attributes:
        network: From an observation and a move to a value.
        margin: The advantage over staying that a move must be worth.
    """

    network: Network
    margin: float = 0.0

    def advantages(self, observation: Floats, moves: Floats) -> Floats:
        """[A] how much more each move [A, 2] is worth than the first, which stays."""
        seen = np.broadcast_to(observation, (len(moves), len(observation)))
        values = self.network(np.concatenate([seen, moves], axis=1))
        return np.asarray(values[:, 0] - values[0, 0])

    def choose(self, observation: Floats, moves: Floats, allowed: NDArray[np.bool_]) -> int:
        """The allowed move worth most; 0, to stay, unless one is worth the margin more."""
        advantage = np.where(allowed, self.advantages(observation, moves) - self.margin, -np.inf)
        advantage[0] = 0.0
        return int(advantage.argmax())


def decide(state: RunState, network: RunNetwork) -> Move:
    """The move of the default policy, and what the network makes of it."""
    seen = observe(state)
    if seen is None:
        return moved(state, 0, 0)
    rates, sizes = allowed(state)
    n = len(RATE_FACTORS)
    rate = network.choose(seen, MOVES[:n], rates)
    if not sizes.any():
        return moved(state, rate, 0)
    return moved(state, rate, network.choose(given(seen, rate), MOVES[n:], sizes))


def moved(state: RunState, rate: int, size: int) -> Move:
    """The move of the default policy, times a factor of the rate, and with one of the batch."""
    base, now = cut_and_decay(state), state.batch_size_now
    factor = _factor(state) * RATE_FACTORS[rate]
    factors = {"learning_rate": RATE_FACTORS[rate], "batch_size": BATCH_FACTORS[size]}
    changes: dict[str, float] = {"learning_rate": _default_rate(state) * factor}
    if size and now is not None:
        changes["batch_size"] = int(now * BATCH_FACTORS[size])
    return replace(
        base,
        name=named(factors) if rate or size else base.name,
        hyperparameters=changes,
        factor=factor,
    )


def allowed(state: RunState) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which moves of the rate [5] and of the batch [3] are open.

    Not to a rate at which the run was rolled back from the state in hand, nor more than 64 times
    away from the default policy's; a batch size only between epochs, and where it can be changed.
    The second is all false where there is nothing to choose.
    """
    base, factors = _default_rate(state), _factor(state) * np.array(RATE_FACTORS)
    in_vain = min((s.learning_rate for s in _rolled_back(state.record)), default=math.inf)
    rates = (factors <= _MOST) & (factors >= 1 / _MOST) & (base * factors < in_vain * (1 - 1e-9))
    rates[0] = True
    now, limit = state.batch_size_now, state.batch_size_limit
    if now is None or limit is None or limit <= now:  # within an epoch the limit is what it is
        return rates, np.zeros(len(BATCH_FACTORS), np.bool_)
    sizes = now * np.array(BATCH_FACTORS)
    fits = (sizes <= limit) & (sizes >= min(now, _SMALLEST_BATCH)) & (sizes % 1 == 0)
    fits[0] = True
    return rates, fits


def given(seen: Floats, rate: int) -> Floats:
    """The observation [O] when the batch is to be chosen after a move of the rate."""
    return np.concatenate([seen[:-2], [MOVES[rate, 0], 1.0]])


def observe(state: RunState) -> Floats | None:
    """The observation [19] of `rlhf_tune.run.observation`; None if it is too early for a slope.

    If nothing is moved, the rate will be the default policy's times the factor so far.
    """
    if len(observation.validated(state)) < _FEWEST:
        return None
    factor = _factor(state)
    return observation.observe(state, _default_rate(state) * factor, factor)


def _default_rate(state: RunState) -> float:
    base = cut_and_decay(state).hyperparameters["learning_rate"]
    return base or state.learning_rate


def _factor(state: RunState) -> float:
    return state.record[-1].factor if state.record else 1.0


def _rolled_back(record: Sequence[Stretch]) -> list[Stretch]:
    """The stretches that were discarded since the last one that was committed."""
    last = next((i for i in reversed(range(len(record))) if record[i].committed), -1)
    return list(record[last + 1 :])


def save(network: RunNetwork, path: Path, about: Mapping[str, str]) -> None:
    """Write a network in single precision."""
    save_network(network.network, path, about, margin=np.array([network.margin]))


def load(path: Path) -> RunNetwork:
    """Read a network.

    Raises:
        InvalidInputError: If the file holds none.
    """
    try:
        network, others = load_network(path)
        if network.inputs != len(FEATURES) + MOVES.shape[1]:
            raise KeyError(f"a layer of {len(FEATURES) + MOVES.shape[1]} inputs")
        return RunNetwork(network, float(others["margin"][0]))
    except KeyError as exc:
        raise InvalidInputError(
            f"the moves of a run must be a network of their own kind, such as "
            f"run_moves.safetensors of this package, but {path} lacks {exc}"
        ) from exc


@cache
def shipped() -> RunNetwork:
    """The network that comes with the package."""
    return load(SHIPPED.with_name("run_moves.safetensors"))
