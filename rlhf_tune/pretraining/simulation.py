"""Studies simulated on recorded tasks, for the Q-network to learn from.

A recorded table tells the reward of *every* move. Rewards are gains of the true mean, so a lucky
measurement earns nothing. The priors of the players never saw the family they play on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.study import space
from rlhf_tune.study.dqn_residual import QMap, View, view
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.state import StudyState

Floats = NDArray[np.float64]

# Not tuned:
TRIALS = 20
_FOLDS = 3
_SHIFTS_A_ROUND = 2
_EPSILON = 0.15


@dataclass(frozen=True)
class Step:
    """One decision of a simulated study, over the M cells of the lattice.

    Attributes:
        seen: What the agent saw.
        reward: [M] the gain of the true mean that each move would have brought.
        free: [M] which moves were allowed.
        taken: The move made.
    """

    seen: View
    reward: Floats
    free: NDArray[np.bool_]
    taken: int


@dataclass(frozen=True)
class Job:
    """One study to simulate: a task moved by `shift` decades, with the prior of its fold."""

    task: Recorded
    shift: float
    prior: Prior
    seed: tuple[int, ...]


def jobs(tasks: Sequence[Recorded], *seed: int) -> list[Job]:
    """Every task at some of the shifts, each with a prior learned from other families."""
    families = sorted({task.family for task in tasks})
    rng = np.random.default_rng(seed)
    plan = []
    for fold in range(_FOLDS):
        held = set(families[fold::_FOLDS])
        prior = listed([task for task in tasks if task.family not in held])
        for task in tasks:
            if task.family in held:
                drawn = rng.choice(SHIFTS, size=_SHIFTS_A_ROUND, replace=False)
                plan += [(task, float(shift), prior) for shift in drawn]
    return [Job(*parts, seed=(*seed, i)) for i, parts in enumerate(plan)]


def simulate(job: Job, network: QMap | None, epsilon: float = _EPSILON) -> list[Step]:
    """Play one study of `TRIALS` trials, epsilon-greedy."""
    rng = np.random.default_rng(job.seed)
    table, true = _table(job.task, job.shift)
    lattice, cells, start = _lattice(job.task.rates[[0, -1]].tobytes())
    tried, values, steps = [start], [table[start, rng.integers(table.shape[1])]], []
    while len(tried) < TRIALS:
        incumbent = int(np.argmax(values))
        history = _history(lattice, cells[tried], np.array(values))
        free = np.ones(len(cells), np.bool_)
        free[tried] = False
        free[tried[incumbent]] = True
        state = StudyState(
            history=history,
            incumbent=incumbent,
            cells=cells,
            allowed=free,
            p_safe=np.ones(len(cells)),
            prior=job.prior,
            planned_trials=TRIALS,
        )
        seen = view(state)
        q = seen.ei if network is None else network.q(seen)
        greedy = int(np.where(free, q, -np.inf).argmax())
        taken = int(rng.choice(np.flatnonzero(free))) if rng.random() < epsilon else greedy
        steps.append(Step(seen, np.maximum(0, true - true[tried[incumbent]]), free, taken))
        tried.append(taken)
        values.append(table[taken, rng.integers(table.shape[1])])
    return steps


def _table(task: Recorded, shift: float) -> tuple[Floats, Floats]:
    """[M, S] the values of every cell with each seed, and [M] their mean."""
    lattice, cells, _ = _lattice(task.rates[[0, -1]].tobytes())
    surface = RegularGridInterpolator((task.rates, task.sizes), np.moveaxis(task.values, 0, -1))
    sizes, rates = lattice.positions(cells).T  # axes are sorted by name
    low, high = task.rates[[0, -1]]
    at = np.column_stack([np.clip(rates - shift, low, high), np.clip(sizes, *task.sizes[[0, -1]])])
    values = surface(at)
    return values, values.mean(axis=1)


@cache
def _lattice(ends: bytes) -> tuple[space.Lattice, NDArray[np.int64], int]:
    """The lattice between two learning rates (in decades), its cells [M, 2], the first point's."""
    low, high = 10.0 ** np.frombuffer(ends)
    ranges = {
        "learning_rate": FloatDistribution(float(low), float(high), log=True),
        "batch_size": IntDistribution(16, 256, log=True),
    }
    lattice = space.lattice(ranges, {})
    cells = np.argwhere(np.ones(lattice.shape, dtype=np.bool_))
    default = [axis.index(axis.default) for axis in lattice.axes]
    return lattice, cells, int((cells == default).all(axis=1).argmax())


def _history(lattice: space.Lattice, cells: NDArray[np.int64], values: Floats) -> History:
    n = len(values)
    return History(
        lattice=lattice,
        numbers=np.arange(n),
        params=(),
        cells=cells,
        positions=lattice.positions(cells),
        others=np.zeros((n, 0), np.int64),
        values=values,
        costs=np.zeros((n, 0)),
        constraints=(),
        blocked=np.ones(n, np.bool_),
        failed=np.zeros(n, np.bool_),
        running=np.zeros(n, np.bool_),
    )
