"""Fine-tuning of M copies of a network side by side, each by decisions of its own.

What `rlhf_tune.fine_tuning.process.FineTuning` does with one model, for many at once: the same
groups, operations, observations and rules; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.layers.tasks import Task
from benchmarks.recorded.networks import Network, network
from benchmarks.recorded.training import Optimizer, evaluate, orders, train_epoch
from rlhf_tune.fine_tuning.observation import BOUND, GLOBAL, OF_GROUP
from rlhf_tune.fine_tuning.operations import SLOWLY

GROUPS = ("stem", "blocks", "head", "all")
DECISIONS = 15
STRETCH = 20  # steps
BATCH = 16
OPERATIONS = ("skip", "tune", "tune slowly", "stop", "return")
RATES = {"tune": 1.0, "tune slowly": SLOWLY}

Choose = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""Actions [M] of observations [M, O] at a decision."""


@dataclass
class Trace:
    """What M copies went through; states are one more than decisions.

    Attributes:
        observation: [T + 1, M, O]
        action: [T, M]
        accuracy: [T + 1, M] on the rows held out.
        metric: [T + 1, M] on the validation rows.
        loss: [T + 1, M] the same.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.int8]
    accuracy: NDArray[np.float32]
    metric: NDArray[np.float32]
    loss: NDArray[np.float32]


def pretrained(task: Task, seed: int, epochs: int = 15) -> tuple[Network, Tensor]:
    """The network of a task, and its weights [1, P] after training on the source."""
    x, y = (torch.from_numpy(part) for part in task.source)
    net = network(task.network, x.shape[1], task.n_classes, task.steps)
    generator = torch.Generator().manual_seed(seed)
    weights = net.initial(1, generator)
    optimizer = Optimizer("adam", weights, torch.tensor([3e-3]))
    length = len(y) // 32 * 32
    for _ in range(epochs):
        order = orders(1, len(y), length, generator).view(1, -1, 32).transpose(0, 1)
        train_epoch(net, weights, optimizer, x, y, order)
    return net, weights


@dataclass
class Copies:
    """M copies in hand, with the moments of Adam."""

    net: Network
    weights: Tensor
    group_of: Tensor  # [P] 0 stem, 1 blocks, 2 head
    rate: float
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)
    steps: Tensor = field(init=False)  # [M, 3]

    def __post_init__(self) -> None:
        """Fresh moments."""
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.steps = torch.zeros(len(self.weights), 3)

    def reset(self, which: Tensor, start: Tensor) -> None:
        """Some copies begin anew."""
        self.weights[which] = start
        self.first[which] = 0
        self.second[which] = 0
        self.steps[which] = 0

    def train(self, rates: Tensor, masks: Tensor, x: Tensor, y: Tensor, batches: Tensor) -> Tensor:
        """Steps of Adam where masks [M, 3] say so, at rates [M]; mean losses [M]."""
        on = masks[:, self.group_of].float()
        losses = torch.zeros(len(self.weights))
        for rows in batches:
            leaf = self.weights.detach().requires_grad_()
            logits = self.net.logits(leaf, x[rows])
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), y[rows].flatten(), reduction="none"
            )
            loss = loss.view(rows.shape).mean(dim=1)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
            self.steps += masks
            self.first.lerp_(gradient, 0.1 * on)
            self.second.add_(on * 0.001 * (gradient * gradient - self.second))
            steps = self.steps.clamp_min(1)
            first = (1 - 0.9**steps)[:, self.group_of]
            second = (1 - 0.999**steps)[:, self.group_of]
            scale = (self.second / second).sqrt_().add_(1e-8)
            self.weights.sub_(on * rates[:, None] / first * self.first / scale)
            losses += loss.detach()
        return losses / len(batches)

    def norms(self, flat: Tensor) -> Tensor:
        """[M, 4] of tensors [M, P] by group, the last of all."""
        squares = torch.zeros(len(flat), 3).index_add_(1, self.group_of, flat * flat)
        return torch.cat([squares, squares.sum(dim=1, keepdim=True)], dim=1).sqrt()


def groups_of(net: Network) -> Tensor:
    """[P] which group each weight is of: the first layer, the last one, and those between.

    A norm goes with the layer before it, and positions with the embedding before them.
    """
    sizes, kinds = [], []
    for layer in net.layers:
        sizes.append(sum(int(np.prod(a.shape)) for a in layer))
        kinds.append(len(layer) == 2 and layer[0].shape[0] == 1)  # a norm
    transformer = len(net.layers) == 10
    parts: list[list[int]] = []
    for i, norm in enumerate(kinds):
        if parts and (norm or (transformer and i == 1)):
            parts[-1].append(i)
        else:
            parts.append([i])
    group = dict.fromkeys(range(len(sizes)), 1)
    group |= dict.fromkeys(parts[0], 0) | dict.fromkeys(parts[-1], 2)
    return torch.cat([torch.full((size,), group[i]) for i, size in enumerate(sizes)])


def simulate(task: Task, seed: int, copies: int, rate: float, choose: Choose) -> Trace:
    """M copies of a task through all decisions."""
    net, start = pretrained(task, seed)
    data = {
        name: tuple(torch.from_numpy(part) for part in getattr(task, name))
        for name in ("train", "validation", "held_out")
    }
    hand = Copies(net, start.repeat(copies, 1), groups_of(net), rate)
    generator = torch.Generator().manual_seed(seed)
    watch = _Watch(hand, start, data)
    seen, actions, scores = [watch.observe(0)], [], [watch.scores()]
    for decision in range(DECISIONS):
        chosen = choose(seen[-1], decision)
        actions.append(chosen.astype(np.int8))
        watch.carry_out(chosen, generator)
        seen.append(watch.observe(decision + 1))
        scores.append(watch.scores())
    columns = (np.stack(part).astype(np.float32) for part in zip(*scores, strict=True))
    return Trace(np.stack(seen), np.stack(actions), *columns)


class _Watch:
    """What is remembered of each copy, and how it looks."""

    def __init__(self, hand: Copies, start: Tensor, data: dict[str, tuple[Tensor, ...]]) -> None:
        self.hand, self.start, self.data = hand, start, data
        m = len(hand.weights)
        self._size = hand.norms(start)
        ids = hand.group_of.float()
        share = torch.stack([(ids == g).float().mean() for g in range(3)])
        self._share = torch.cat([share, torch.ones(1)]).numpy()
        self._depth = np.array([0.0, 0.5, 1.0, 0.5])
        self._spent, self._gain, self._loss_gain = (np.zeros((m, 4)) for _ in range(3))
        self._last = np.full(m, -1)
        self._stopped = np.zeros(m, np.bool_)
        self._measure()
        self._first_loss, self._first = self._loss.copy(), self._metric.copy()
        self._training = self._loss.copy()
        self._best = self._metric.copy()

    def _measure(self) -> None:
        """Losses, accuracies and gradients of the state in hand."""
        found = evaluate(self.hand.net, self.hand.weights, *self.data["validation"])
        self._loss, self._metric = found.loss.numpy().copy(), found.accuracy.numpy().copy()
        self._accuracy = evaluate(
            self.hand.net, self.hand.weights, *self.data["held_out"]
        ).accuracy.numpy()
        leaf = self.hand.weights.detach().requires_grad_()
        x, y = self.data["train"]
        logits = self.hand.net.logits(leaf, x[None])
        labels = y.expand(len(leaf), -1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (gradient,) = torch.autograd.grad(loss * len(leaf), leaf)
        self._gradient = (self.hand.norms(gradient) / self._size).numpy()
        self._distance = (self.hand.norms(self.hand.weights - self.start) / self._size).numpy()

    def carry_out(self, chosen: NDArray[np.int64], generator: torch.Generator) -> None:
        """One decision of each copy."""
        group, operation = np.divmod(chosen, len(OPERATIONS))
        names = np.array(OPERATIONS)[operation]
        self._stopped |= names == "stop"
        rate = np.array([RATES.get(name, 0.0) for name in names]) * ~self._stopped
        back = (names == "return") & ~self._stopped
        before, loss = self._metric.copy(), self._loss.copy()
        if back.any():
            self.hand.reset(torch.from_numpy(back), self.start)
        masks = torch.tensor([[g == k or g == 3 for k in range(3)] for g in group])
        masks &= torch.from_numpy(rate > 0)[:, None]
        x, y = self.data["train"]
        size = min(BATCH, len(y))
        batches = orders(len(chosen), len(y), STRETCH * size, generator)
        batches = batches.view(len(chosen), STRETCH, size).transpose(0, 1)
        rates = torch.from_numpy(rate * self.hand.rate).float()
        training = self.hand.train(rates, masks, x, y, batches).numpy()
        self._measure()
        trained, acted = rate > 0, (rate > 0) | back
        self._training = np.where(trained, training, self._training)
        rows = np.flatnonzero(acted)
        self._spent[np.flatnonzero(trained), group[trained]] += 1 / DECISIONS
        self._gain[rows, group[rows]] = (self._metric - before)[rows]
        self._loss_gain[rows, group[rows]] = np.log(
            np.maximum(loss, 1e-6) / np.maximum(self._loss, 1e-6)
        )[rows]
        self._last[rows] = group[rows]
        self._best = np.maximum(self._best, self._metric)

    def scores(self) -> tuple[NDArray[np.float32], ...]:
        """Held-out accuracy, validation accuracy and validation loss of the state in hand."""
        return self._accuracy, self._metric, self._loss

    def observe(self, decision: int) -> NDArray[np.float32]:
        """[M, O] as `rlhf_tune.fine_tuning.observation.observe` does."""
        small = 1e-6
        ratio = [
            np.log(np.maximum(loss, small) / np.maximum(self._first_loss, small))
            for loss in (self._loss, self._training)
        ]
        m = len(self._loss)
        overall = [
            np.zeros(m),
            np.full(m, 1 - decision / DECISIONS),
            self._metric,
            self._metric - self._first,
            self._best - self._first,
            *ratio,
        ]
        relative = np.log(self._gradient + small)
        columns = [
            relative - relative.mean(axis=1, keepdims=True),
            np.sqrt(self._distance),
            np.broadcast_to(self._share, (m, 4)),
            np.broadcast_to(self._depth, (m, 4)),
            self._spent,
            self._gain,
            self._loss_gain,
            (self._last[:, None] == np.arange(4)).astype(float),
        ]
        assert len(overall) == len(GLOBAL)
        assert len(columns) == len(OF_GROUP)
        own = np.stack(columns, axis=2).reshape(m, -1)
        whole = np.concatenate([np.stack(overall, axis=1), own], axis=1)
        return np.clip(np.nan_to_num(whole, posinf=BOUND), -BOUND, BOUND).astype(np.float32)
