"""The search of `fine_tune` on source tasks, beside equal parts of its budget for each plan.

What `rlhf_tune.fine_tuning.policies.search` does with one model, for many copies at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.layers import simulation as sim
from benchmarks.layers.tasks import Task
from benchmarks.recorded.training import evaluate, orders
from rlhf_tune.fine_tuning.operations import FACTORS
from rlhf_tune.fine_tuning.policies import parts, plans, rounds

STEPS = sim.DECISIONS * sim.STRETCH
GIVEN = (1e-3, 10**-2.5, 1e-2, 10**-1.5)
"""The user's rate; nobody knows how good it is."""

Scores = NDArray[np.float64]
"""[3, M] validation accuracy, minus the loss, and accuracy on the rows held out."""


def searches(task: Task, seed: int) -> list[tuple[float, float]]:
    """Held-out accuracy of what equal parts and successive halving hand back, by given rate."""
    plain = len(plans(sim.GROUPS, 1))
    equal = _played(task, seed, [1.0], [plain] * 3)
    halved = _played(task, seed, FACTORS, rounds(plain * len(FACTORS), STEPS))
    return list(zip(equal, halved, strict=True))


@dataclass
class Search:
    """The copies of one given rate.

    Attributes:
        alive: Their numbers.
        left: Of the budget, in steps of all weights.
        best: Validation accuracy, minus the loss, and held-out accuracy of the best state so far.
    """

    alive: list[int]
    left: float
    best: tuple[float, ...]

    def lengths(
        self, standing: Scores, count: int, rounds_left: int, shares: Sequence[float]
    ) -> dict[int, int]:
        """Steps of the copies that take part in a round: the best so far."""
        self.alive.sort(key=lambda m: tuple(standing[:2, m]), reverse=True)
        del self.alive[count:]
        found = parts(self.left / rounds_left, [shares[m] for m in self.alive])
        self.left -= sum(n * shares[m] for n, m in zip(found, self.alive, strict=True))
        return dict(zip(self.alive, found, strict=True))

    def see(self, scores: Scores, copies: Sequence[int]) -> None:
        """States that were validated; the first of equals stays."""
        self.best = max([self.best, *(tuple(scores[:, m]) for m in copies)], key=lambda s: s[:2])


def _played(task: Task, seed: int, factors: Sequence[float], counts: Sequence[int]) -> list[float]:
    """By given rate: each plan at each factor of it, so many of them in each round."""
    net, start = sim.pretrained(task, seed)
    groups = [*plans(sim.GROUPS, len(counts)).values()] * len(factors) * len(GIVEN)
    each = len(groups) // len(GIVEN)
    rates = [given * f for given in GIVEN for f in factors for _ in range(each // len(factors))]
    hand = sim.Copies(net, start.repeat(len(rates), 1), sim.groups_of(net), 1.0)
    size = [float((hand.group_of == k).float().mean()) for k in range(3)]
    share = {**dict(zip(sim.GROUPS, size, strict=False)), sim.GROUPS[-1]: 1.0}
    generator, standing = torch.Generator().manual_seed(seed), _scores(hand, task)
    first = tuple(standing[:, 0])
    every = [Search(list(range(i * each, (i + 1) * each)), STEPS, first) for i in range(len(GIVEN))]
    for number, count in enumerate(counts):
        shares = [share[plan[number]] for plan in groups]
        lengths = np.zeros(len(rates), int)
        for one in every:
            for m, steps in one.lengths(standing, count, len(counts) - number, shares).items():
                lengths[m] = steps
        numbers = [sim.GROUPS.index(plan[number]) for plan in groups]
        masks = torch.tensor([[n == k or n == 3 for k in range(3)] for n in numbers])
        ends = sorted({0, *lengths.tolist(), *range(sim.STRETCH, max(lengths), sim.STRETCH)})
        for begin, end in pairwise(ends):
            going = lengths > begin
            _train(
                hand, task, generator, rates, masks & torch.from_numpy(going)[:, None], end - begin
            )
            scores = _scores(hand, task)
            seen = going & ((end % sim.STRETCH == 0) | (lengths == end))
            standing[:, seen] = scores[:, seen]
            for one in every:
                one.see(scores, [m for m in one.alive if seen[m]])
    return [one.best[2] for one in every]


def _train(
    hand: sim.Copies,
    task: Task,
    generator: torch.Generator,
    rates: Sequence[float],
    masks: torch.Tensor,
    steps: int,
) -> None:
    x, y = (torch.from_numpy(part) for part in task.train)
    size = min(sim.BATCH, len(y))
    batches = orders(len(rates), len(y), steps * size, generator).view(-1, steps, size)
    hand.train(torch.tensor(rates), masks, x, y, batches.transpose(0, 1))


def _scores(hand: sim.Copies, task: Task) -> Scores:
    validation, held_out = (
        evaluate(hand.net, hand.weights, *(torch.from_numpy(part) for part in rows))
        for rows in (task.validation, task.held_out)
    )
    return np.stack(
        [
            validation.accuracy.numpy().astype(float),
            -validation.loss.numpy().astype(float),
            held_out.accuracy.numpy().astype(float),
        ]
    )
