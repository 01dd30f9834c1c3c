"""Training of M copies of a network at once, each with its own learning rate and data order.

The arithmetic of each copy is that of an ordinary PyTorch model trained with
`torch.optim.SGD(momentum=0.9)`, `Adam` or `AdamW`; a test pins it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.recorded.networks import Network


class Optimizer:
    """SGD with momentum .9, Adam or AdamW on flat parameters [M, P], one learning rate a row.

    AdamW decays all parameters by .01, decoupled from the gradient, as in `torch.optim.AdamW`.
    """

    def __init__(self, name: str, parameters: Tensor, learning_rates: Tensor) -> None:
        assert name in ("sgd", "adam", "adamw"), name
        self._name = name
        self._rates = learning_rates[:, None]
        self._first = torch.zeros_like(parameters)
        self._second = torch.zeros_like(parameters)
        self._steps = 0

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """Move the parameters in place."""
        self._steps += 1
        if self._name == "sgd":
            self._first.mul_(0.9).add_(gradient)
            parameters.sub_(self._rates * self._first)
            return
        if self._name == "adamw":
            parameters.mul_(1 - 0.01 * self._rates)
        self._first.lerp_(gradient, 0.1)
        self._second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self._second / (1 - 0.999**self._steps)).sqrt_().add_(1e-8)
        parameters.sub_(self._rates / (1 - 0.9**self._steps) * self._first / scale)


def orders(copies: int, samples: int, length: int, generator: torch.Generator) -> Tensor:
    """Sample indices [copies, length]: shuffled passes over the data, one after the other."""
    passes = -(-length // samples)
    keys = torch.rand(copies, passes, samples, generator=generator)
    return keys.argsort(dim=2).view(copies, -1)[:, :length]


@dataclass(frozen=True)
class Scores:
    """Mean loss [M] and accuracy [M]; a copy whose outputs are not finite has accuracy 0."""

    loss: Tensor
    accuracy: Tensor


def train_epoch(
    net: Network, parameters: Tensor, optimizer: Optimizer, x: Tensor, y: Tensor, batches: Tensor
) -> Scores:
    """One gradient step of each copy per batch; returns means over the batches seen on the way.

    Args:
        net: The architecture.
        parameters: [M, P], changed in place.
        optimizer: Its state goes on from epoch to epoch.
        x: [n, d] training inputs.
        y: [n] labels.
        batches: [T, M, B] sample indices.
    """
    losses, hits = [], []
    for rows in batches:
        leaf = parameters.detach().requires_grad_()
        logits = net.logits(leaf, x[rows])
        loss = _cross_entropy(logits, y[rows]).mean(dim=1)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        optimizer.step(parameters, gradient)
        losses.append(loss.detach())
        hits.append(_correct(logits.detach(), y[rows]).float().mean(dim=1))
    return Scores(torch.stack(losses).mean(dim=0), torch.stack(hits).mean(dim=0))


@torch.no_grad()
def evaluate(net: Network, parameters: Tensor, x: Tensor, y: Tensor) -> Scores:
    """Scores of each copy on the same inputs [n, d] and labels [n]."""
    logits = net.logits(parameters, x[None])
    labels = y.expand(len(parameters), -1)
    accuracy = _correct(logits, labels).float().mean(dim=1)
    return Scores(_cross_entropy(logits, labels).mean(dim=1), accuracy)


def fgsm_accuracy(
    net: Network,
    parameters: Tensor,
    x: Tensor,
    y: Tensor,
    radius: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Share [M] of samples that are correct before and after both fast gradient sign attacks.

    One attack follows the gradient of the cross-entropy (Goodfellow et al., 2015), one that of the
    margin between the best wrong logit and the true one, which does not vanish where the softmax
    saturates.

    Args:
        net: The architecture.
        parameters: [M, P].
        x: [n, d] inputs as the network sees them (shifted and scaled).
        y: [n] labels.
        radius: [d] attack radius in the same units.
        low: [d] what an input of 0 becomes in these units.
        high: [d] what an input of 1 becomes.
    """
    copies = len(parameters)
    labels = y.expand(copies, -1)
    clean = x.expand(copies, -1, -1).contiguous().requires_grad_()
    logits = net.logits(parameters, clean)
    true = functional.one_hot(labels, logits.shape[-1]).bool()
    wrong = logits.masked_fill(true, -torch.inf).amax(dim=-1)
    margin = wrong - logits.masked_fill(~true, 0).sum(dim=-1)
    robust = _correct(logits.detach(), labels)
    for objective in (_cross_entropy(logits, labels), margin):
        (gradient,) = torch.autograd.grad(objective.sum(), clean, retain_graph=True)
        with torch.no_grad():
            attacked = (clean + radius * gradient.sign()).clamp(low, high)
            robust &= _correct(net.logits(parameters, attacked), labels)
    return robust.float().mean(dim=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss [M, B] of logits [M, B, C]."""
    return functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    ).view_as(labels)


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels) & logits.isfinite().all(dim=-1)
