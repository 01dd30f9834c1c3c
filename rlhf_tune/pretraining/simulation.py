"""Studies simulated on problems of which all is known, for the Q-networks to learn from.

They are read, observed and masked by the sampler's own functions, so what is learned is played on
the same states. As the problems tell the value of *every* move, so does the reward: by how much
the truth of what is recommended would gain. A lucky measurement earns nothing. The priors of the
players never saw the family they play on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, create_trial

from rlhf_tune.agents.exploration import epsilon_greedy
from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.pretraining.problems import Moved, Problem, drawn
from rlhf_tune.study import space
from rlhf_tune.study.decision import Caution, observe
from rlhf_tune.study.dqn_residual import QMap, View, view
from rlhf_tune.study.history import read
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.risk import SafetyChecker
from rlhf_tune.study.state import StudyState

Floats = NDArray[np.float64]

# Not tuned:
TRIALS = 30
CANDIDATES = 32
"""So many of the moves of a decision are kept; most are the best by expected improvement."""
_LIKELY = 24
_FOLDS = 3
_DRAWN_SHARE = 0.6  # surfaces drawn for each recorded task
_DRAWN_FAMILIES = 24  # that drawn surfaces are told in, being of no family
_EPSILON = 0.15


@dataclass(frozen=True)
class Step:
    """One decision of a simulated study, over M = `CANDIDATES` moves.

    Attributes:
        seen: What the agent saw.
        reward: [M] the gain of the truth of the recommendation that each move would have brought.
        free: [M] which moves were allowed; none beyond those that there were.
        taken: The move made.
    """

    seen: View
    reward: Floats
    free: NDArray[np.bool_]
    taken: int


@dataclass(frozen=True)
class Job:
    """One study to simulate, with a prior that never saw its family."""

    problem: Problem
    family: str
    prior: Prior
    seed: tuple[int, ...]


def jobs(tasks: Sequence[Recorded], *seed: int) -> list[Job]:
    """Every task at some shift, with a prior learned from other families, and drawn surfaces."""
    families = sorted({task.family for task in tasks})
    rng = np.random.default_rng(seed)
    plan: list[tuple[Problem, str, Prior]] = []
    for fold in range(_FOLDS):
        held = set(families[fold::_FOLDS])
        prior = listed([task for task in tasks if task.family not in held])
        mine = [task for task in tasks if task.family in held]
        plan += [(Moved(task, float(rng.choice(SHIFTS))), task.family, prior) for task in mine]
        surfaces = [drawn(rng) for _ in range(round(_DRAWN_SHARE * len(mine)))]
        plan += [
            (surface, f"drawn {i % _DRAWN_FAMILIES}", prior) for i, surface in enumerate(surfaces)
        ]
    return [Job(*parts, seed=(*seed, i)) for i, parts in enumerate(plan)]


def simulate(job: Job, network: QMap | None, epsilon: float = _EPSILON) -> list[Step]:
    """Play one study of `TRIALS` trials, epsilon-greedy."""
    rng = np.random.default_rng(job.seed)
    problem, lattice = job.problem, space.lattice(job.problem.space, {})
    caution = Caution(SafetyChecker())
    trials = [_trial(problem, lattice, {a.name: a.default for a in lattice.axes}, rng)]
    steps = []

    def state() -> StudyState | None:
        history = read(trials, lattice, StudyDirection.MAXIMIZE)
        return observe(history, caution, prior=job.prior, planned_trials=TRIALS, rng=rng)

    while len(trials) < TRIALS and (now := state()):
        seen = view(now)
        q = seen.ei if network is None else network.q(seen)
        taken = epsilon_greedy(q, now.allowed, epsilon, rng)
        steps.append(_step(now, seen, taken, problem, rng))
        params = now.history.lattice.params(now.cells[taken].tolist())
        trials.append(_trial(problem, lattice, params, rng))
    return steps


def _trial(
    problem: Problem, over: space.Lattice, params: dict[str, object], rng: np.random.Generator
) -> FrozenTrial:
    value = problem.measured(over.positions_of([params]), rng)
    return create_trial(params=params, distributions=dict(problem.space), value=value)


def _step(
    state: StudyState, seen: View, taken: int, problem: Problem, rng: np.random.Generator
) -> Step:
    """What of a decision is kept: the move made, and `CANDIDATES` - 1 others or fewer."""
    history = state.history
    expected = np.where(history.eligible, state.outlook.of_trials().mean, -np.inf)
    recommended = problem.true(history.positions[[int(expected.argmax())]])
    gains = problem.true(history.lattice.positions(state.cells)) - recommended
    ranked = np.argsort(-seen.ei, kind="stable")
    some = rng.permutation(ranked[_LIKELY:])[: CANDIDATES - _LIKELY - 1]
    kept = np.unique(np.concatenate([[taken], ranked[:_LIKELY], some]))
    padded = np.concatenate([kept, np.repeat(kept[:1], CANDIDATES - len(kept))])
    free = state.allowed[padded] & (np.arange(CANDIDATES) < len(kept))
    return Step(
        seen=View(seen.features[padded], np.where(free, seen.ei[padded], 0.0)),
        reward=np.maximum(0, gains[padded]),
        free=free,
        taken=int(np.searchsorted(kept, taken)),
    )
