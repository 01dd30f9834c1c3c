"""Expected improvement, corrected by a DQN that learns inside the study.

    Q(state, move) = expected improvement of the move + residual(state, move)

The expected improvement values the next trial only; the residual learns, by double Q-learning,
what it lacks: what a move is worth for the trials after it. The residual starts at zero, so
without experience the agent is expected improvement, and its weights are a pure function of the
trials: `STEPS` gradient steps from a seeded initialisation on the last `WINDOW` trials.

What a trial measures does not depend on the trial before it, so every ordered pair of trials is a
transition that could have happened; the replay buffer holds those too (hindsight relabelling,
Andrychowicz et al. 2017, arXiv:1707.01495).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.replay import Batch, Replay
from rlhf_tune.history import History, allowed
from rlhf_tune.policy.acquisition import Outlook, expected_improvement, outlook
from rlhf_tune.policy.situation import Situation

WINDOW = 24
STEPS = 20
BATCH = 16
HIDDEN = (24,)
LEARNING_RATE = 3e-4
DISCOUNT = 0.9

Floats = NDArray[np.float64]


def q_values(situation: Situation) -> Floats:
    """The values [M] of the candidate moves."""
    from rlhf_tune.agents.dqn import DQN  # torch takes seconds to import: on first use

    history, row, cells = situation.history, situation.incumbent, situation.cells
    view = outlook(history, situation.prior)
    prior = view.improvement(row, cells)
    replay = _replay(view, situation.moves)
    if len(replay) == 0:
        return prior
    agent = DQN(
        _features(history, situation.moves),
        1 + len(history.lattice.axes),
        hidden=HIDDEN,
        learning_rate=LEARNING_RATE,
        seed=situation.seed,
    )
    for _ in range(STEPS):
        agent.learn(replay.sample(BATCH, situation.rng))
    observations = np.repeat(_observations(view)[row][None], len(cells), axis=0)
    residual = agent.score(observations, _features(history, cells - history.cells[row]))
    return prior + residual


def _replay(view: Outlook, moves: NDArray[np.int64]) -> Replay:
    """All ordered pairs of the last trials: from the first as incumbent, a move to the second."""
    history, performance, eligible = view.history, view.performance, view.history.eligible
    observations = _observations(view)
    recent = np.flatnonzero(history.blocked)[-WINDOW:]
    starts = recent[history.complete[recent]]
    around = {i: history.cells[i] + moves for i in starts}
    free = {i: allowed(history, around[i]) for i in starts}
    ahead = {i: view.improvement(i, around[i]).astype(np.float32) for i in starts}
    predicted = view.of_trials(recent)
    replay = Replay(max(1, len(starts) * len(recent)))
    for i in starts:
        steps = _features(history, history.cells[recent] - history.cells[i])
        prior = expected_improvement(predicted.mean, predicted.deviation, float(performance[i]))
        for k, j in enumerate(recent):
            if i == j:
                continue
            better = eligible[j] and performance[j] > performance[i]
            after = j if better else i
            replay.add(
                Batch(
                    observations[i],
                    steps[k],
                    np.asarray(performance[after] - performance[i], dtype=np.float32),
                    np.asarray(DISCOUNT, dtype=np.float32),
                    observations[after],
                    free[after],
                    np.asarray(prior[k], dtype=np.float32),
                    ahead[after],
                )
            )
    return replay


def _observations(view: Outlook) -> NDArray[np.float32]:
    """[T, 1 + D] performance and hyperparameters of the trials, scaled to about one."""
    positions = view.history.lattice.unit(view.history.positions)
    return np.column_stack([view.performance, 2 * positions - 1]).astype(np.float32)


def _features(history: History, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    """[M, D] moves in cells, scaled so that the full axis has length 2."""
    span = np.maximum(np.array(history.lattice.shape) - 1, 1)
    return np.asarray(2 * steps / span, dtype=np.float32)
