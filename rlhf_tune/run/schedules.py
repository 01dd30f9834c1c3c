"""Schedules of a training run: pure functions of its record, which any loop can use."""

from __future__ import annotations

import math

from rlhf_tune.run.state import RunState
from rlhf_tune.run.stretch import Move

# Chosen on train tasks, and the length of the warm-up on validation tasks too;
# docs/benchmarks/training_run.md says what else was tried.
_CUT = 4.0  # a rate that made things worse is divided by this
_WARM_UNTIL = 0.25  # share of the budget over which the rate rises
DECAY_FROM = 0.6  # share of the budget after which it falls

_BOLD_RISE = 2.0  # the textbook's is 1.1; not tuned

ADAPTIVE = 1e-3
"""The usual learning rate of optimizers that divide by the size of the gradient, such as Adam."""


SGD = 1e-2
"""The usual one of stochastic gradient descent."""


def warm_up(progress: float) -> float:
    """A factor that rises in proportion to the progress over the first part of the budget, to 1.

    With it a network bears rates several times higher. Source: Goyal et al. (2017),
    arXiv:1706.02677.
    """
    return min(1.0, progress / _WARM_UNTIL)


def terminal_decay(progress: float) -> float:
    """A factor that stays 1, then falls to 0 as half a cosine over the last part of the budget."""
    share = max(0.0, progress - DECAY_FROM) / (1 - DECAY_FROM)
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2


def cut_and_decay(state: RunState) -> Move:
    """Warm up, stay, and in the end fall to zero; after a rollback divide the rate by 4."""
    return _named(state, _warm_rate(state) * terminal_decay(state.progress))


def cut_and_grow(state: RunState) -> Move:
    """As `cut_and_decay`, but the batch grows first, in powers of two, and the rate falls less.

    The ratio of rate and batch size, the scale of the gradient noise, falls alike. Source: Smith
    et al. (2018), arXiv:1711.00489.
    """
    factor = terminal_decay(state.progress)
    now, start = state.batch_size_now, state.batch_size
    if now is None or start is None:
        return cut_and_decay(state)
    limit = max(now, state.batch_size_limit or now)
    size = now
    while size * 2 <= min(limit, start / max(factor, 1e-9)):
        size *= 2
    move = _named(state, _warm_rate(state) * factor * size / start)
    if size == now:
        return move
    return Move("grow batch", {**move.hyperparameters, "batch_size": size})


def bold(state: RunState) -> Move:
    """Double the rate after a stretch that went well, divide the tried one by 4 after a rollback.

    Source: the bold driver of Battiti (1989), Complex Systems 3, 331-342, with a rollback.
    """
    if not state.record:
        return _to("stay", state.learning_rate)
    last = state.record[-1]
    if last.committed:
        return _to("raise", last.learning_rate * _BOLD_RISE)
    return _to("cut", last.learning_rate / _CUT)


def constant(state: RunState) -> Move | None:
    """Stay; after a rollback there is nothing else to do, and the run ends."""
    if state.record and not state.record[-1].committed:
        return None
    return Move("stay")


def _warm_rate(state: RunState) -> float:
    """The rate before any decay."""
    cuts = sum(not stretch.committed for stretch in state.record)
    return float(state.learning_rate / _CUT**cuts * warm_up(state.progress))


def _named(state: RunState, rate: float) -> Move:
    record = state.record
    if record and not record[-1].committed:
        return _to("cut", rate)
    if state.progress < _WARM_UNTIL:
        return _to("warm up", rate)
    return _to("decay" if state.progress > DECAY_FROM else "stay", rate)


def _to(name: str, rate: float) -> Move:
    return Move(name, {"learning_rate": rate})
