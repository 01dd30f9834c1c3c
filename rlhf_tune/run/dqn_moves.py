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

from rlhf_tune.errors import InvalidInputError
from rlhf_tune.run.schedules import cut_and_decay
from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Move, Stretch
from rlhf_tune.tensors import SHIPPED, read_tensors, write_tensors

Floats = NDArray[np.float64]
Layers = Sequence[tuple[Floats, Floats]]

RATE_FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0)
BATCH_FACTORS = (1.0, 0.5, 2.0)
MOVES = np.array(
    [(math.log2(f) / 2, 0.0) for f in RATE_FACTORS] + [(0.0, math.log2(f)) for f in BATCH_FACTORS]
)
"""[A, 2] the moves as the network sees them: first those of the rate, then those of the batch."""

FEATURES = (
    "loss",
    "loss above the best",
    "slope",
    "slope over four stretches",
    "training slope",
    "generalisation gap",
    "rate",
    "factor",
    "rate over batch",
    "batch",
    "progress",
    "length of a stretch",
    "cuts",
    "rolled back",
    "stretches since the last rollback",
    "certified",
    "margin",
    "rate move",
    "batch is to be chosen",
)
"""What an observation holds; see `observe`."""

_MOST = 64.0  # the moves together change the rate at most by this
_FEWEST = 2  # committed stretches before the first move: a slope needs them
_SMALLEST_BATCH = 8  # that is not shrunk further
_TINY = 1e-3  # losses below this share of the first count as this, as do those above 1 / this


@dataclass(frozen=True, eq=False)
class RunNetwork:
    """The weights of f: ReLU between layers, each a weight [inputs, outputs] and a bias.

    Attributes:
        layers: The first takes an observation and a move.
        margin: The advantage over staying that a move must be worth.
    """

    layers: Layers
    margin: float = 0.0

    def advantages(self, observation: Floats, moves: Floats) -> Floats:
        """[A] how much more each move [A, 2] is worth than the first, which stays."""
        seen = np.broadcast_to(observation, (len(moves), len(observation)))
        h = np.concatenate([seen, moves], axis=1)
        for depth, (weight, bias) in enumerate(self.layers):
            h = (np.maximum(h, 0) if depth else h) @ weight + bias
        return np.asarray(h[:, 0] - h[0, 0])

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
    names = [f"rate x{RATE_FACTORS[rate]:g}"] if rate else []
    names += [f"batch x{BATCH_FACTORS[size]:g}"] if size else []
    changes: dict[str, float] = {"learning_rate": _default_rate(state) * factor}
    if size and now is not None:
        changes["batch_size"] = int(now * BATCH_FACTORS[size])
    return replace(
        base,
        name=", ".join(names) or base.name,
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
    """The observation [O] named by `FEATURES`, each of about unit size; None if it is too early.

    Losses are validation losses of committed stretches, relative to the one before training.
    "loss" is a decimal logarithm, slopes and the gap are natural ones, of ratios; "rate", "rate
    over batch" and "batch" are relative to the framework's default rate, to that at batch size 32,
    and to the first batch size; "factor" is what the moves so far have made of the rate. "margin"
    is the smallest of the constraints', times ten; "cuts", the stretches since the last rollback
    and the length of a stretch are scaled.
    """
    done = [s for s in state.record if s.committed and "val_loss" in s.validation]
    if len(done) < _FEWEST:
        return None
    first, last, cuts = _reference(state), done[-1], _cuts(state.record)
    losses = [_share(s.validation["val_loss"], first) for s in done]
    training = [_share(s.training.get("loss", math.nan), first) for s in done]
    usual = state.usual_rate or state.learning_rate
    rate = _default_rate(state) * _factor(state)
    size, start = state.batch_size_now or 32, state.batch_size or 32
    since = next((i for i, s in enumerate(reversed(state.record)) if not s.committed), 99)
    values = (
        math.log10(losses[-1]),
        math.log(losses[-1] / min(losses)),
        3 * math.log(losses[-1] / losses[-2]),
        math.log(losses[-1] / losses[-min(5, len(losses))]),
        3 * math.log(training[-1] / training[-2]),
        math.log(losses[-1] / training[-1]),
        math.log10(rate / usual),
        math.log2(_factor(state)) / 3,
        math.log10(rate / usual * 32 / size),
        math.log2(size / start) / 2,
        state.progress,
        math.log10(state.progress / (len(state.record) + 0.5)) + 1.5,
        min(cuts, 6) / 3,
        float(not state.record[-1].committed),
        min(since, 12) / 6,
        float(last.satisfied),
        10 * _margin(last),
        0.0,
        0.0,
    )
    return np.asarray(np.clip(np.nan_to_num(np.array(values)), -3, 3))


def _default_rate(state: RunState) -> float:
    base = cut_and_decay(state).hyperparameters["learning_rate"]
    return base or state.learning_rate


def _reference(state: RunState) -> float:
    """The loss before training, or else the first one known."""
    known = [state.loss_before]
    known += [s.validation.get("val_loss", math.nan) for s in state.record]
    return next((abs(loss) for loss in known if math.isfinite(loss) and loss), 1.0)


def _share(loss: float, first: float) -> float:
    return min(max(loss / first, _TINY), 1 / _TINY)


def _factor(state: RunState) -> float:
    return state.record[-1].factor if state.record else 1.0


def _cuts(record: Sequence[Stretch]) -> int:
    return sum(not stretch.committed for stretch in record)


def _rolled_back(record: Sequence[Stretch]) -> list[Stretch]:
    """The stretches that were discarded since the last one that was committed."""
    last = next((i for i in reversed(range(len(record))) if record[i].committed), -1)
    return list(record[last + 1 :])


def _margin(stretch: Stretch) -> float:
    """To the nearest constraint; 0 without any."""
    return min((-m.cost for m in stretch.measurements.values()), default=0.0)


def save(network: RunNetwork, path: Path, about: Mapping[str, str]) -> None:
    """Write a network in single precision."""
    tensors = {"margin": np.array([network.margin])}
    for depth, (weight, bias) in enumerate(network.layers):
        tensors |= {f"{depth}.weight": weight, f"{depth}.bias": bias}
    write_tensors({name: t.astype(np.float32) for name, t in tensors.items()}, path, about)


def load(path: Path) -> RunNetwork:
    """Read a network.

    Raises:
        InvalidInputError: If the file holds none.
    """
    tensors = read_tensors(path)
    depth = sum(name.endswith(".weight") for name in tensors)
    try:
        layers = [(tensors[f"{d}.weight"], tensors[f"{d}.bias"]) for d in range(depth)]
        inputs = layers[0][0].shape[0] if layers else 0
        if inputs != len(FEATURES) + MOVES.shape[1]:
            raise KeyError(f"a layer of {len(FEATURES) + MOVES.shape[1]} inputs")
        return RunNetwork(layers, float(tensors["margin"][0]))
    except KeyError as exc:
        raise InvalidInputError(
            f"the moves of a run must be a network of their own kind, such as "
            f"run_moves.safetensors of this package, but {path} lacks {exc}"
        ) from exc


@cache
def shipped() -> RunNetwork:
    """The network that comes with the package."""
    return load(SHIPPED.with_name("run_moves.safetensors"))
