"""A DQN that learns inside one study, from nothing but its trials.

Its weights are a pure function of the trials: `STEPS` gradient steps from a seeded initialisation
on the last `WINDOW` trials. What a trial measured does not depend on the trial before it, so
every ordered pair of trials is a transition that could have happened; the replay buffer holds
those too (hindsight relabelling, Andrychowicz et al. 2017, arXiv:1707.01495).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.dqn import DQN
from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.history import History, allowed
from rlhf_tune.policy import Situation

WINDOW = 24
STEPS = 30
BATCH = 32
DISCOUNT = 0.9


def epsilon(n: int) -> float:
    """How much to explore after `n` finished trials."""
    return max(0.2, 0.9**n)


def q_values(situation: Situation) -> NDArray[np.float64]:
    """The values [M] of the candidate moves by a DQN trained on the study's trials."""
    history = situation.history
    agent = DQN(
        _features(history, situation.moves),
        _observation_size(history),
        seed=situation.seed,
    )
    replay = _replay(situation)
    for _ in range(STEPS if len(replay) else 0):
        agent.learn(replay.sample(BATCH, situation.rng))
    here = history.cells[situation.incumbent]
    observation = _observations(history, _performance(history))[situation.incumbent]
    observations = np.repeat(observation[None], len(situation.cells), axis=0)
    actions = _features(history, situation.cells - here)
    return agent.score(observations, actions).astype(np.float64)


def _replay(situation: Situation) -> Replay:
    """All ordered pairs of the last trials: from the first as incumbent, a move to the second."""
    history = situation.history
    performance = _performance(history)
    observations = _observations(history, performance)
    recent = np.flatnonzero(history.blocked)[-WINDOW:]
    starts = [i for i in recent if history.complete[i]]
    free = {i: allowed(history, history.cells[i] + situation.moves) for i in starts}
    replay = Replay(max(1, len(starts) * len(recent)))
    for i in starts:
        for j in recent:
            if i == j:
                continue
            better = history.eligible[j] and performance[j] > performance[i]
            after = j if better else i
            replay.add(
                Batch(
                    observations[i],
                    _features(history, history.cells[None, j] - history.cells[i])[0],
                    np.asarray(performance[after] - performance[i], dtype=np.float32),
                    np.asarray(DISCOUNT, dtype=np.float32),
                    observations[after],
                    free[after],
                )
            )
    return replay


def _observation_size(history: History) -> int:
    return 1 + len(history.lattice.axes)


def _performance(history: History) -> NDArray[np.float64]:
    """[T] results on the scale of the study: median 0, interquartile range 1, bounded by 3."""
    if not history.complete.any():
        return np.zeros(len(history.values))
    low, middle, high = np.nanquantile(history.values, [0.25, 0.5, 0.75])
    spread = high - low if high > low else 1.0
    return np.asarray(np.clip((np.nan_to_num(history.values, nan=low) - middle) / spread, -3, 3))


def _observations(history: History, performance: NDArray[np.float64]) -> NDArray[np.float32]:
    """[T, 1 + D] performance and hyperparameters, scaled to about one."""
    positions = history.lattice.unit(history.positions)
    return np.column_stack([performance, 2 * positions - 1]).astype(np.float32)


def _features(history: History, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """[M, D] moves in cells, scaled so that the full axis has length 2."""
    span = np.maximum(np.array(history.lattice.shape) - 1, 1)
    return np.asarray(2 * steps / span, dtype=np.float32)
