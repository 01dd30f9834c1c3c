"""Multilayer perceptrons and recurrent networks, as S copies side by side on flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.recorded.networks import Array, Layer, Network, Tensors

Kind = Literal["mlp", "rnn", "gru"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
}


@dataclass(frozen=True)
class Shape:
    """An architecture.

    Attributes:
        kind: A multilayer perceptron, or a recurrent network with a linear layer on its last state.
        inputs: Features of a sample or step.
        outputs: Classes, or 1.
        width: Units of each hidden layer, or of the state.
        depth: Hidden layers; 0 is a linear model. A recurrent network has one.
        activation: Of hidden layers: relu, tanh or gelu.
    """

    kind: Kind
    inputs: int
    outputs: int
    width: int = 32
    depth: int = 1
    activation: str = "relu"


@lru_cache(maxsize=256)
def network(shape: Shape) -> Network:
    """An architecture without dropout, as it is evaluated."""
    if shape.kind == "mlp":
        widths = (shape.inputs, *[shape.width] * shape.depth, shape.outputs)
        layers = tuple(_dense(a, b) for a, b in pairwise(widths))
        return Network(layers, partial(mlp, activation=shape.activation))
    gates = 3 if shape.kind == "gru" else 1
    bound = shape.width**-0.5
    units = gates * shape.width
    cell = (
        Array((shape.inputs, units), bound),
        Array((1, units), bound),
        Array((shape.width, units), bound),
        Array((1, units), bound),
    )
    forward = _gru if shape.kind == "gru" else _rnn
    return Network((cell, _dense(shape.width, shape.outputs)), forward)


def _dense(inputs: int, outputs: int) -> Layer:
    """Weight and bias as in `torch.nn.Linear`: uniform within 1 / sqrt(inputs)."""
    return Array((inputs, outputs), inputs**-0.5), Array((1, outputs), inputs**-0.5)


def mlp(
    layers: Sequence[Tensors],
    x: Tensor,
    activation: str,
    drop: Callable[[Tensor], Tensor] = lambda h: h,
) -> Tensor:
    """[S, B, C] of inputs [S or 1, B, d]; `drop` is applied to each hidden layer."""
    h = _affine(x, *layers[0])
    for layer in layers[1:]:
        h = _affine(drop(_ACTIVATIONS[activation](h)), *layer)
    return h


def dropout(share: float, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Inverted dropout whose masks are drawn from a generator."""

    def drop(h: Tensor) -> Tensor:
        return h * (torch.rand(h.shape, generator=generator) >= share) / (1 - share)

    return drop


def _affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias, h.expand(len(weight), -1, -1), weight)


def _by_step(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """T times [S, B, units]: what the inputs [S or 1, B, T, d] contribute at each step."""
    flat = _affine(x.flatten(1, 2), weight, bias)
    return flat.view(len(weight), x.shape[1], x.shape[2], -1).unbind(dim=2)


def _rnn(layers: Sequence[Tensors], x: Tensor) -> Tensor:
    """`torch.nn.RNN` with tanh, then a linear layer on the last state."""
    (weight, bias, again, offset), head = layers
    first, *steps = _by_step(x, weight, bias + offset)
    h = torch.tanh(first)
    for step in steps:
        h = torch.tanh(torch.baddbmm(step, h, again))
    return _affine(h, *head)


def _gru(layers: Sequence[Tensors], x: Tensor) -> Tensor:
    """`torch.nn.GRU`, then a linear layer on the last state."""
    (weight, bias, again, offset), head = layers
    steps = _by_step(x, weight, bias)
    width = again.shape[1]
    h = steps[0].new_zeros(*steps[0].shape[:2], width)
    for step in steps:
        own = torch.baddbmm(offset, h, again)
        gates = torch.sigmoid(step[..., : 2 * width] + own[..., : 2 * width])
        reset, update = gates.chunk(2, dim=-1)
        new = torch.tanh(step[..., 2 * width :] + reset * own[..., 2 * width :])
        h = torch.lerp(new, h, update)
    return _affine(h, *head)
