"""The search of `fine_tune` on source tasks, beside equal parts of its budget for each plan.

What `rlhf_tune.fine_tuning.policies.search` does with one model, for many copies at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.layers import simulation as sim
from benchmarks.layers.tasks import Task
from benchmarks.recorded.training import evaluate, orders
from rlhf_tune.fine_tuning.operations import FACTORS
from rlhf_tune.fine_tuning.policies import plans, rounds

STEPS = sim.DECISIONS * sim.STRETCH
GIVEN = (1e-3, 10**-2.5, 1e-2, 10**-1.5)
"""The user's rate; nobody knows how good it is."""

States = NDArray[np.float64]
"""[T + 1, 3, M] validation accuracy, minus the loss, and accuracy on the rows held out."""


def searches(task: Task, seed: int) -> list[tuple[float, float]]:
    """Held-out accuracy of what equal parts and successive halving hand back, by given rate."""
    net, start = sim.pretrained(task, seed)
    count = len(plans(sim.GROUPS, 1))
    every = rounds(count * len(FACTORS), STEPS)

    def followed(lengths: Sequence[int], factors: Sequence[float]) -> list[States]:
        """By given rate: a plan a copy, at each factor of it; lengths [T] in steps."""
        groups = list(plans(sim.GROUPS, len(lengths)).values()) * len(factors) * len(GIVEN)
        rates = [given * factor for given in GIVEN for factor in factors for _ in range(count)]
        hand = sim.Copies(net, start.repeat(len(rates), 1), sim.groups_of(net), 1.0)
        return np.split(_trained(hand, task, seed, groups, rates, lengths), len(GIVEN), axis=2)

    equal = followed([STEPS // count // 3] * 3, [1.0])
    halved = followed([each for _, each in every], FACTORS)
    going = [number for number, _ in every]
    return [
        (handed_back(old, [3] * count), handed_back(new, rounds_played(new, going)))
        for old, new in zip(equal, halved, strict=True)
    ]


def _trained(
    hand: sim.Copies,
    task: Task,
    seed: int,
    groups: Sequence[Sequence[str]],
    rates: Sequence[float],
    lengths: Sequence[int],
) -> States:
    """Copies, each with the groups [T] of its plan and a rate of its own."""
    x, y = (torch.from_numpy(part) for part in task.train)
    generator = torch.Generator().manual_seed(seed)
    size, found = min(sim.BATCH, len(y)), [_states(hand, task)]
    for number, steps in enumerate(lengths):
        numbers = [sim.GROUPS.index(plan[number]) for plan in groups]
        masks = torch.tensor([[n == k or n == 3 for k in range(3)] for n in numbers])
        batches = orders(len(rates), len(y), steps * size, generator).view(-1, steps, size)
        hand.train(torch.tensor(rates), masks, x, y, batches.transpose(0, 1))
        found.append(_states(hand, task))
    return np.stack(found)


def rounds_played(found: States, going: Sequence[int]) -> list[int]:
    """Of each copy [M]; so many take part in each round, the best before it."""
    alive, played = list(range(found.shape[2])), [0] * found.shape[2]
    for number, count in enumerate(going):
        alive.sort(key=lambda m: tuple(found[number, :2, m]), reverse=True)
        del alive[count:]
        for m in alive:
            played[m] += 1
    return played


def handed_back(found: States, played: Sequence[int]) -> float:
    """Held-out accuracy of the best state: each copy's own by accuracy, between them loss too."""
    best = [int(found[: rounds + 1, 0, m].argmax()) for m, rounds in enumerate(played)]
    winner = max(range(len(best)), key=lambda m: tuple(found[best[m], :2, m]))
    return float(found[best[winner], 2, winner])


def _states(hand: sim.Copies, task: Task) -> States:
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
