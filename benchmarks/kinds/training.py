"""Training of S copies of a network side by side: same setting, own initial weights and orders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.kinds.data import Data, loss
from benchmarks.kinds.networks import Shape, dropout, mlp, network
from benchmarks.recorded.training import orders


@dataclass(frozen=True)
class Setting:
    """Everything that a problem may tune, and what it is where it is not tuned.

    Attributes:
        learning_rate: The peak of the schedule.
        batch_size: Samples a step.
        optimizer: sgd (with `momentum`), adam or adamw.
        momentum: Of sgd.
        beta1: Of adam and adamw.
        beta2: Of adam and adamw.
        weight_decay: Added to the gradient; adamw applies it to the parameters instead.
        clip: Largest norm of a copy's gradient.
        dropout: Share of hidden units.
        width: Units of a hidden layer.
        depth: Hidden layers.
        activation: Of hidden layers.
        schedule: const, or cosine to 0.
        warm_up: The share of steps over which the learning rate rises linearly.
    """

    learning_rate: float = 1e-3
    batch_size: int = 32
    optimizer: str = "adam"
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = math.inf
    dropout: float = 0.0
    width: int = 32
    depth: int = 1
    activation: str = "relu"
    schedule: str = "const"
    warm_up: float = 0.0


NAMES = frozenset(field.name for field in fields(Setting))


@dataclass(frozen=True)
class Budget:
    """How long a training run is: until either is spent.

    Attributes:
        steps: Gradient steps.
        samples: Samples seen, with repetitions.
    """

    steps: int
    samples: int

    def of(self, batch_size: int) -> int:
        """The number of gradient steps."""
        return max(1, min(self.steps, self.samples // batch_size))


def setting(fixed: Mapping[str, Any], params: Mapping[str, Any]) -> Setting:
    """The setting that a trial's parameters stand for."""
    return Setting(**{**fixed, **params})


def initial(shape: Shape, copies: int, seed: int) -> Tensor:
    """[S, P] parameters before training."""
    return network(shape).initial(copies, torch.Generator().manual_seed(seed))


def train(
    shape: Shape, start: Tensor, given: Setting, data: Data, budget: Budget, seed: int
) -> Tensor:
    """[S, P] parameters after training; those that diverged are huge, infinite or NaN.

    Args:
        shape: The architecture.
        start: [S, P], left as they are.
        given: The setting.
        data: Whose training part is learned.
        budget: When it ends.
        seed: Of the orders of samples and of the masks of dropout.
    """
    torch.set_flush_denormal(True)  # dead units would otherwise slow training down tenfold
    generator = torch.Generator().manual_seed(seed)
    size, steps = given.batch_size, budget.of(given.batch_size)
    order = orders(len(start), len(data.y_train), steps * size, generator)
    logits = _trained_network(shape, given, generator)
    step = _Step(given, steps, start)
    parameters = start.clone()
    for n in range(steps):
        rows = order[:, n * size : (n + 1) * size]
        leaf = parameters.detach().requires_grad_()
        each = loss(logits(leaf, data.x_train[rows]), data.y_train[rows])
        (gradient,) = torch.autograd.grad(each.mean(dim=1).sum(), leaf)
        step(parameters, gradient)
    return parameters


def _trained_network(
    shape: Shape, given: Setting, generator: torch.Generator
) -> Callable[[Tensor, Tensor], Tensor]:
    """Outputs [S, B, C] of parameters [S, P] and inputs, with dropout where there is any."""
    net = network(shape)
    if not given.dropout:
        return net.logits
    drop = dropout(given.dropout, generator)
    forward = partial(mlp, activation=given.activation, drop=drop)
    return lambda parameters, x: forward(net.unpacked(parameters), x)


class _Step:
    """One step of SGD, Adam or AdamW on parameters [S, P], as in `torch.optim`."""

    def __init__(self, given: Setting, steps: int, like: Tensor) -> None:
        self._given, self._steps, self._done = given, steps, 0
        self._first, self._second = torch.zeros_like(like), torch.zeros_like(like)

    def __call__(self, parameters: Tensor, gradient: Tensor) -> None:
        """Move the parameters in place."""
        given, rate = self._given, self._rate()
        self._done += 1
        if math.isfinite(given.clip):
            norm = gradient.norm(dim=1, keepdim=True)
            gradient = gradient * (given.clip / (norm + 1e-6)).clamp(max=1)
        if given.optimizer == "adamw":
            parameters.mul_(1 - rate * given.weight_decay)
        elif given.weight_decay:
            gradient = gradient.add(parameters, alpha=given.weight_decay)
        if given.optimizer == "sgd":
            self._first.mul_(given.momentum).add_(gradient)
            parameters.sub_(self._first, alpha=rate)
            return
        self._first.lerp_(gradient, 1 - given.beta1)
        self._second.mul_(given.beta2).addcmul_(gradient, gradient, value=1 - given.beta2)
        scale = (self._second / (1 - given.beta2**self._done)).sqrt_().add_(1e-8)
        parameters.addcdiv_(self._first, scale, value=-rate / (1 - given.beta1**self._done))

    def _rate(self) -> float:
        """The learning rate of the next step."""
        given, warm = self._given, round(self._given.warm_up * self._steps)
        if self._done < warm:
            return given.learning_rate * (self._done + 1) / warm
        if given.schedule == "const":
            return given.learning_rate
        along = (self._done - warm) / max(1, self._steps - warm)
        return given.learning_rate * (1 + math.cos(math.pi * along)) / 2
