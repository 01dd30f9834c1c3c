"""Trains the Q-network of `rlhf_tune.study.dqn_residual` on recorded tasks.

Studies are simulated on the recorded surfaces, with priors that never saw their families. A
recorded table tells the reward of *every* move, so `rho` learns from all of them; `V` learns by
double Q-learning from the moves that were taken. Rewards are gains of the true mean, so a lucky
measurement earns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from scipy.interpolate import RegularGridInterpolator

from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError
from rlhf_tune.pretraining.priors import SHIFTS, Recorded, listed
from rlhf_tune.study import space
from rlhf_tune.study.dqn_residual import (
    BOUND,
    DISCOUNT,
    FEATURES,
    QMap,
    View,
    load_qmap,
    save_qmap,
    view,
)
from rlhf_tune.study.history import History
from rlhf_tune.study.prior import Prior
from rlhf_tune.study.state import StudyState

if TYPE_CHECKING:
    import torch

    from rlhf_tune.agents.dqn import Weights

Floats = NDArray[np.float64]

# Not tuned:
TRIALS = 20
_FOLDS = 3
_SHIFTS_A_ROUND = 2
_HIDDEN = 32
_EPSILON = 0.15
_BATCH = 64
_EPOCHS = 6


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
            budget=TRIALS,
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
    )


def train(
    tasks: Sequence[Recorded],
    *,
    rounds: int,
    seed: int,
    checkpoint: Path,
    processes: int,
    progress: Callable[[str, float], None],
) -> QMap:
    """Alternate simulation and learning; resumes from `checkpoint` if a run was interrupted.

    Args:
        tasks: To learn from.
        rounds: Of simulation with the network so far, then learning from those studies.
        seed: Of weights, studies and batches.
        checkpoint: A folder for the network after each round.
        processes: That simulate.
        progress: Is told what is being done and the share of the round that is.
    """
    network: QMap | None = None
    checkpoint.mkdir(parents=True, exist_ok=True)
    for number in range(rounds):
        done = checkpoint / f"seed-{seed}-round-{number}.safetensors"
        if not done.exists():
            plan = jobs(tasks, seed, number)
            studies = list(_simulated(plan, network, processes, progress))
            learned = fit(studies, network, seed=seed, progress=progress)
            save_qmap(learned, done, {"round": str(number), "seed": str(seed)})
        network = load_qmap(done)
    if network is None:
        raise InvalidInputError(f"`rounds` must be at least 1, but got {rounds}")
    return network


def _simulated(
    plan: Sequence[Job],
    network: QMap | None,
    processes: int,
    progress: Callable[[str, float], None],
) -> Iterator[list[Step]]:
    with ProcessPoolExecutor(processes) as pool:
        futures = [pool.submit(simulate, job, network) for job in plan]
        for i, future in enumerate(futures):
            progress("simulating studies", i / len(plan))
            yield future.result()
    progress("simulating studies", 1.0)


def fit(
    studies: Sequence[Sequence[Step]],
    start: QMap | None,
    *,
    seed: int,
    progress: Callable[[str, float], None],
) -> QMap:
    """Learn from simulated studies: `rho` from all moves, `V` from those taken."""
    import torch

    from rlhf_tune.agents.dqn import copied, initial_weights, layers_of, weights_of

    steps = [step for study in studies for step in study]
    data = _Data.of(steps, start or _normalising(steps), [len(study) for study in studies])
    sizes = (2 * len(FEATURES), _HIDDEN, _HIDDEN, 2)
    weights = weights_of(start.network.layers) if start else initial_weights(sizes, seed)
    parameters = [tensor.requires_grad_() for layer in weights for tensor in layer]
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(_EPOCHS):
        target = copied(weights)
        shuffled = torch.randperm(len(steps), generator=order)
        batches = [shuffled[i : i + _BATCH] for i in range(0, len(steps), _BATCH)]
        for i, rows in enumerate(batches):
            loss = data.loss(weights, target, rows)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress("learning", (epoch + i / len(batches)) / _EPOCHS)
    progress("learning", 1.0)
    layers = [(w.astype(np.float64), b.astype(np.float64)) for w, b in layers_of(weights)]
    return replace(data.qmap, network=Network(layers))


def _normalising(steps: Sequence[Step]) -> QMap:
    """Without a network: shift and scale of the features."""
    stacked = np.stack([step.seen.features for step in steps])
    return QMap(stacked.mean(axis=(0, 1)), stacked.std(axis=(0, 1)) + 1e-6, Network(()))


@dataclass(frozen=True, eq=False)
class _Data:
    """N steps as tensors.

    Attributes:
        qmap: Normalises the features.
        x: [N, M, F] normalised features.
        ei: [N, M]
        reward: [N, M]
        free: [N, M]
        taken: [N]
        after: [N] the step that follows, or itself where the study ends.
        discount: [N] 1, or 0 where the study ends.
    """

    qmap: QMap
    x: torch.Tensor
    ei: torch.Tensor
    reward: torch.Tensor
    free: torch.Tensor
    taken: torch.Tensor
    after: torch.Tensor
    discount: torch.Tensor

    @classmethod
    def of(cls, steps: Sequence[Step], qmap: QMap, lengths: Sequence[int]) -> _Data:
        import torch

        last = np.zeros(len(steps), np.bool_)
        last[np.cumsum(lengths) - 1] = True
        features = np.stack([qmap.normalised(step.seen.features) for step in steps])
        return cls(
            qmap,
            torch.from_numpy(features.astype(np.float32)),
            torch.from_numpy(np.stack([step.seen.ei for step in steps]).astype(np.float32)),
            torch.from_numpy(np.stack([step.reward for step in steps]).astype(np.float32)),
            torch.from_numpy(np.stack([step.free for step in steps])),
            torch.tensor([step.taken for step in steps]),
            torch.from_numpy(np.arange(len(steps)) + ~last),
            torch.from_numpy(np.where(last, 0, 1).astype(np.float32)),
        )

    def scored(self, weights: Weights, rows: torch.Tensor) -> torch.Tensor:
        """[B, M, 2] rho and V of the steps `rows`."""
        import torch

        from rlhf_tune.agents.dqn import forward

        x = self.x[rows]
        best = x[torch.arange(len(rows)), self.ei[rows].argmax(1)]
        return forward(weights, torch.cat([x, best[:, None].expand_as(x)], dim=2))

    def loss(self, weights: Weights, target: Weights, rows: torch.Tensor) -> torch.Tensor:
        """Of rho at all moves that were allowed, and of V at the one that was made."""
        import torch

        scores, ei = self.scored(weights, rows), self.ei[rows]
        error = ei + scores[..., 0] - self.reward[rows]
        relevance = ei / ei.amax(1, keepdim=True).clamp_min(1e-6)
        rewards = ((0.1 + relevance) * error**2)[self.free[rows]].mean()
        value = scores[torch.arange(len(rows)), self.taken[rows], 1]
        return 100 * (rewards + ((value - self.ahead(weights, target, rows)) ** 2).mean())

    def ahead(self, weights: Weights, target: Weights, rows: torch.Tensor) -> torch.Tensor:
        """[B] what the steps after `rows` are worth; they are discounted when played, by `QMap.q`.

        The move is selected as `QMap.q` does, with the bounded residual, and valued without bound.
        """
        import torch

        from rlhf_tune.agents.losses import double_q_target

        after = self.after[rows]
        ei = self.ei[after]
        with torch.no_grad():
            apart = _residual(self.scored(weights, after))
            apart = apart - apart.gather(1, ei.argmax(1, keepdim=True))
            bound = BOUND * ei.amax(1, keepdim=True)
            selector = ei + apart.clamp(-bound, bound)
            value = ei + _residual(self.scored(target, after))
        nothing = torch.zeros(len(rows))
        return double_q_target(nothing, self.discount[rows], selector, value, self.free[after])


def _residual(scores: torch.Tensor) -> torch.Tensor:
    """[B, M] of scores [B, M, 2]."""
    return scores[..., 0] + DISCOUNT * scores[..., 1]
