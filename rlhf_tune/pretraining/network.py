"""Trains the Q-networks of `rlhf_tune.study.dqn_residual` on simulated studies.

`rho` learns from the rewards of all moves, as the problems tell them all; `V` learns by double
Q-learning from the moves that were made. Each network of the ensemble has weights of its own to
begin with, and learns from families of problems that are drawn with replacement (Breiman, 1996,
doi:10.1007/BF00058655), so that the networks differ where families do. Weights, forward and target
are the agents'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_tune.agents.dqn import (
    Weights,
    copied,
    forward,
    initial_weights,
    layers_of,
    weights_of,
)
from rlhf_tune.agents.losses import double_q_target
from rlhf_tune.agents.network import Network
from rlhf_tune.errors import InvalidInputError, optional
from rlhf_tune.pretraining.priors import Recorded
from rlhf_tune.pretraining.simulation import Job, Step, jobs, simulate
from rlhf_tune.study.dqn_residual import BOUND, DISCOUNT, FEATURES, QMap, load_qmap, save_qmap

with optional("torch", extra="torch"):
    import torch
    from torch import Tensor

Floats = NDArray[np.floating[Any]]

# Not tuned:
_HIDDEN = 32
_BATCH = 64
_EPOCHS = 4


def train(
    tasks: Sequence[Recorded],
    *,
    rounds: int,
    networks: int,
    seed: int,
    checkpoint: Path,
    processes: int,
    progress: Callable[[str, float], None],
) -> QMap:
    """Alternate simulation and learning; resumes from `checkpoint` if a run was interrupted.

    Args:
        tasks: To learn from.
        rounds: Of simulation with the networks so far, then learning from those studies.
        networks: In the ensemble.
        seed: Of weights, studies and batches.
        checkpoint: A folder for the networks after each round.
        processes: That simulate.
        progress: Is told what is being done and the share of the round that is.

    Raises:
        InvalidInputError: If `rounds` or `networks` is below 1.
    """
    for name, count in {"rounds": rounds, "networks": networks}.items():
        if count < 1:
            raise InvalidInputError(f"`{name}` must be at least 1, but got {count}")
    network: QMap | None = None
    checkpoint.mkdir(parents=True, exist_ok=True)
    files = [
        checkpoint / f"seed-{seed}-networks-{networks}-round-{number}.safetensors"
        for number in range(rounds)
    ]
    for number, done in enumerate(files):
        if not done.exists():
            plan = jobs(tasks, seed, number)
            studies = list(_simulated(plan, network, processes, progress))
            learned = fit(
                studies,
                [job.family for job in plan],
                network,
                networks=networks,
                seed=seed,
                progress=progress,
            )
            save_qmap(learned, done, {"round": str(number), "seed": str(seed)})
        network = load_qmap(done)
    return load_qmap(files[-1])


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
    families: Sequence[str],
    start: QMap | None,
    *,
    networks: int,
    seed: int,
    progress: Callable[[str, float], None],
) -> QMap:
    """Learn an ensemble from simulated studies: `rho` from all moves, `V` from those taken.

    Args:
        studies: To learn from.
        families: That each study's problem is of.
        start: The ensemble to go on from, if any.
        networks: In the ensemble.
        seed: Of weights, families and batches.
        progress: Is told what is being done and the share of it that is.
    """
    steps = [step for study in studies for step in study]
    lengths = [len(study) for study in studies]
    data = _Data.of(steps, start or _normalising(steps), lengths)
    kin = _rows_of(families, lengths)
    members = []
    for number in range(networks):
        known = weights_of(_member(start.network, number)) if start else None
        told = _share_of(progress, number, networks)
        members.append(_learned(data, kin, known, _seed(seed, number), told))
    parts = [np.stack(same).astype(np.float64) for same in zip(*members, strict=True)]
    layers = [(w, b[:, None]) for w, b in zip(parts[::2], parts[1::2], strict=True)]
    return replace(data.qmap, network=Network(layers))


def _learned(
    data: _Data,
    kin: Sequence[Tensor],
    known: Weights | None,
    seed: int,
    progress: Callable[[float], None],
) -> list[NDArray[np.float32]]:
    """The weights and biases, in turn, of one network; `kin` are the rows of each family."""
    sizes = (2 * len(FEATURES), _HIDDEN, _HIDDEN, 2)
    weights = known or initial_weights(sizes, seed)
    parameters = [tensor.requires_grad_() for layer in weights for tensor in layer]
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=1e-2)
    order = torch.Generator().manual_seed(seed)
    mine = torch.cat([kin[i] for i in torch.randint(len(kin), (len(kin),), generator=order)])
    for epoch in range(_EPOCHS):
        target = copied(weights)
        batches = torch.split(mine[torch.randperm(len(mine), generator=order)], _BATCH)
        for i, rows in enumerate(batches):
            loss = data.loss(weights, target, rows)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress((epoch + i / len(batches)) / _EPOCHS)
    return [part for layer in layers_of(weights) for part in layer]


def _rows_of(families: Sequence[str], lengths: Sequence[int]) -> list[Tensor]:
    """The steps of each family, one after the other, of studies of so many steps."""
    whose = np.repeat(np.array(families), lengths)
    return [torch.from_numpy(np.flatnonzero(whose == family)) for family in sorted({*families})]


def _member(network: Network, number: int) -> list[tuple[Floats, Floats]]:
    """The layers of one network of an ensemble."""
    return [(weight[number], bias[number, 0]) for weight, bias in network.layers]


def _seed(seed: int, number: int) -> int:
    """Of one network of an ensemble."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _share_of(
    progress: Callable[[str, float], None], number: int, networks: int
) -> Callable[[float], None]:
    return lambda share: progress("learning", (number + share) / networks)


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
    x: Tensor
    ei: Tensor
    reward: Tensor
    free: Tensor
    taken: Tensor
    after: Tensor
    discount: Tensor

    @classmethod
    def of(cls, steps: Sequence[Step], qmap: QMap, lengths: Sequence[int]) -> _Data:
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

    def scored(self, weights: Weights, rows: Tensor) -> Tensor:
        """[B, M, 2] rho and V of the steps `rows`."""
        x = self.x[rows]
        best = x[torch.arange(len(rows)), self.ei[rows].argmax(1)]
        return forward(weights, torch.cat([x, best[:, None].expand_as(x)], dim=2))

    def loss(self, weights: Weights, target: Weights, rows: Tensor) -> Tensor:
        """Of rho at all moves that were allowed, and of V at the one that was made."""
        scores, ei = self.scored(weights, rows), self.ei[rows]
        error = ei + scores[..., 0] - self.reward[rows]
        relevance = ei / ei.amax(1, keepdim=True).clamp_min(1e-6)
        rewards = ((0.1 + relevance) * error**2)[self.free[rows]].mean()
        value = scores[torch.arange(len(rows)), self.taken[rows], 1]
        return 100 * (rewards + ((value - self.ahead(weights, target, rows)) ** 2).mean())

    def ahead(self, weights: Weights, target: Weights, rows: Tensor) -> Tensor:
        """[B] what the steps after `rows` are worth; they are discounted when played, by `QMap.q`.

        The move is selected as `QMap.q` does, with the bounded residual, and valued without bound.
        """
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


def _residual(scores: Tensor) -> Tensor:
    """[B, M] of scores [B, M, 2]."""
    return scores[..., 0] + DISCOUNT * scores[..., 1]
