"""Ways to fine-tune that decide nothing: plain loops of PyTorch, a learning rate for each layer.

All of them keep the best of five states by validation accuracy, as the policies do, and choose
their learning rate on validation too, which is not charged to them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.layers.shifts import Rows, Target

STRETCHES = 5
EPOCHS = 20.0
BATCH = 16
RATES = (1e-3, 3e-3, 1e-2, 3e-2)

Layers = Sequence[Sequence[torch.nn.Parameter]]
"""The weights of each layer, from the inputs on."""
Plan = Callable[[int, Sequence[float]], Sequence[float]]
"""By the number of the stretch and the relative gradient norms of the layers [L]: what the learning
rate of each is multiplied by; 0 freezes it."""


@dataclass(frozen=True)
class Outcome:
    """What one method made of one target.

    Attributes:
        accuracy: On the test rows.
        validation: On the validation rows.
        epochs: Of training.
        weighted: Epochs times the share of the weights that were trained.
        switches: Between groups.
        schedule: What was done, in words.
    """

    accuracy: float
    validation: float
    epochs: float
    weighted: float
    switches: float = 0.0
    schedule: str = ""


def baselines(layers: int, groups: Mapping[str, Sequence[int]]) -> dict[str, Plan]:
    """By name; `groups` are numbers of layers, without "all"."""
    top, every = layers - 1, range(layers)

    def only(chosen: Sequence[int]) -> Plan:
        return lambda _, __: [float(i in chosen) for i in every]

    def opened(first: Callable[[int], int]) -> Plan:
        """From a layer on, by the stretch."""
        return lambda stretch, _: [float(i >= first(stretch)) for i in every]

    return {
        "full": only(every),
        **{name: only(chosen) for name, chosen in groups.items()},
        # Kumar et al. (2022), arXiv:2202.10054
        "LP-FT": opened(lambda stretch: top if stretch < 2 else 0),
        # Howard and Ruder (2018), arXiv:1801.06146
        "gradual unfreezing": opened(lambda stretch: top - stretch * layers // STRETCHES),
        "layer decay": lambda _, __: [0.5 ** (top - i) for i in every],
        # Lee et al. (2023), arXiv:2210.11466
        "Auto-RGN": lambda _, norms: [norm / max(norms) for norm in norms],
    }


def play(model: torch.nn.Module, target: Target, plan: Plan, seed: int) -> Outcome:
    """A plan at each rate; the best of them by validation accuracy, then loss."""
    found = [_at_rate(model, target, plan, rate, seed) for rate in RATES]
    return max(found, key=lambda pair: pair[0])[1]


def score(model: torch.nn.Module, data: Rows) -> tuple[float, float]:
    """Accuracy and minus loss."""
    x, y = (torch.from_numpy(part) for part in data)
    model.eval()
    with torch.no_grad():
        outputs = model(x)
    right = float((outputs.argmax(1) == y).float().mean())
    return right, -float(torch.nn.functional.cross_entropy(outputs, y))


def layers_in(model: torch.nn.Module) -> Layers:
    """The weights of each layer that has some."""
    held = [list(m.parameters(recurse=False)) for m in model.modules()]
    return [parameters for parameters in held if parameters]


def _at_rate(
    model: torch.nn.Module, target: Target, plan: Plan, rate: float, seed: int
) -> tuple[tuple[float, float], Outcome]:
    """At one rate: the validation score of the best state, and what came of it."""
    model = copy.deepcopy(model)
    layers = layers_in(model)
    sizes = [sum(p.numel() for p in held) for held in layers]
    x, y = (torch.from_numpy(part) for part in target.train)
    optimizer = torch.optim.Adam([{"params": held, "lr": rate} for held in layers])
    generator = torch.Generator().manual_seed(seed)
    best, kept, weighted = score(model, target.validation), copy.deepcopy(model), 0.0
    for stretch in range(STRETCHES):
        factors = plan(stretch, _relative_norms(model, layers, x, y))
        epochs = EPOCHS / STRETCHES
        weighted += epochs * sum(n for n, f in zip(sizes, factors, strict=True) if f) / sum(sizes)
        _train(model, layers, factors, rate, optimizer, (x, y), generator)
        now = score(model, target.validation)
        if now[0] > best[0]:
            best, kept = now, copy.deepcopy(model)
    accuracy = score(kept, target.test)[0]
    return best, Outcome(accuracy, best[0], EPOCHS, weighted)


def _train(
    model: torch.nn.Module,
    layers: Layers,
    factors: Sequence[float],
    rate: float,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> None:
    """One stretch."""
    model.train()
    for held, factor, group in zip(layers, factors, optimizer.param_groups, strict=True):
        group["lr"] = rate * factor
        for parameter in held:
            parameter.requires_grad_(factor > 0)
    x, y = data
    for _ in range(round(EPOCHS / STRETCHES)):
        for batch in torch.randperm(len(y), generator=generator).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def _relative_norms(model: torch.nn.Module, layers: Layers, x: Tensor, y: Tensor) -> list[float]:
    """Norm of the gradient over that of the weights, of each layer."""
    for held in layers:
        for parameter in held:
            parameter.requires_grad_(True)
    flat = [p for held in layers for p in held]
    found = torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y), flat)
    norms = iter(zip(flat, found, strict=True))
    result = []
    for held in layers:
        own = [next(norms) for _ in held]
        gradient = sum(float(g.square().sum()) for _, g in own) ** 0.5
        weights = sum(float(p.detach().square().sum()) for p, _ in own) ** 0.5
        result.append(gradient / max(weights, 1e-12))
    return result
