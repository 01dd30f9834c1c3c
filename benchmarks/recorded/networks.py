"""Small architectures, each as M copies side by side.

Small networks leave a CPU waiting for its interpreter, so all copies are computed as one batch of
matrix products. Each copy computes what the PyTorch modules named below compute; a test pins it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_HIDDEN: dict[str, tuple[int, ...]] = {
    "linear": (),
    "mlp64": (64,),
    "mlp32x32": (32, 32),
    "mlp32x32x32": (32, 32, 32),
}
_NORMED: dict[str, tuple[int, ...]] = {"norm32x32": (32, 32)}
_FILTERS: dict[str, tuple[int, ...]] = {"cnn": (8,), "cnn2": (8, 16)}
_WIDTH, _EXPANSION = 16, 2
"""Of the transformer: channels of a step, hidden units per channel; there is one head."""

Tensors = tuple[Tensor, ...]


class Array(NamedTuple):
    """Shape of a parameter, and centre and half-width of the uniform draw it starts from."""

    shape: tuple[int, ...]
    bound: float
    centre: float = 0.0


Layer = tuple[Array, ...]


@dataclass(frozen=True)
class Network:
    """An architecture; its parameters are a flat tensor [M, P].

    Attributes:
        layers: The parameters of each layer, in their order in the flat tensor.
        forward: Logits [M, B, C] of the layers' tensors [M, *shape] and inputs [M, B, d], or the
            same inputs [1, B, d] for all copies.
    """

    layers: tuple[Layer, ...]
    forward: Callable[[Sequence[Tensors], Tensor], Tensor]

    def initial(self, copies: int, generator: torch.Generator) -> Tensor:
        """Parameters [copies, P] before training."""
        arrays = [array for layer in self.layers for array in layer]
        bound = torch.cat([torch.full((math.prod(a.shape),), a.bound) for a in arrays])
        centre = torch.cat([torch.full((math.prod(a.shape),), a.centre) for a in arrays])
        return centre + (2 * torch.rand(copies, len(bound), generator=generator) - 1) * bound

    def unpacked(self, parameters: Tensor) -> list[Tensors]:
        """The tensors [M, *shape] of each layer."""
        sizes = [math.prod(array.shape) for layer in self.layers for array in layer]
        parts = iter(torch.split(parameters, sizes, dim=1))
        return [tuple(next(parts).view(-1, *a.shape) for a in layer) for layer in self.layers]

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Logits [M, B, C] of inputs [M, B, d], or of the same inputs [1, B, d] for all copies."""
        return self.forward(self.unpacked(parameters), x)


def network(name: str, inputs: int, n_classes: int, steps: int | None = None) -> Network:
    """An architecture by name.

    Args:
        name: `linear`, `mlp64`, `mlp32x32`, `mlp32x32x32`, `norm32x32` (layer norm before each
            ReLU), `cnn` or `cnn2` (one or two convolutions) or `transformer`.
        inputs: Inputs of a sample.
        n_classes: Outputs.
        steps: Rows of a square image, or steps of a sequence; convolutions and transformers need
            it. A row or step is a token of the transformer.
    """
    if name in _HIDDEN:
        return Network(_dense_stack(inputs, *_HIDDEN[name], n_classes), _mlp)
    if name in _NORMED:
        return Network(_normed_stack(inputs, *_NORMED[name], n_classes), _normed_mlp)
    assert steps is not None, f"{name} needs images or sequences"
    if name in _FILTERS:
        return Network(_convolutions(steps, _FILTERS[name], n_classes), partial(_cnn, side=steps))
    assert name == "transformer", name
    block = _block(inputs // steps, steps, n_classes)
    return Network(block, partial(_transformer, steps=steps))


def _dense(inputs: int, outputs: int) -> Layer:
    """Weight and bias as in `torch.nn.Linear`: uniform within 1 / sqrt(inputs)."""
    return Array((inputs, outputs), inputs**-0.5), Array((1, outputs), inputs**-0.5)


def _norm(width: int) -> Layer:
    """Scale and shift of `torch.nn.LayerNorm`."""
    return Array((1, width), 0.0, centre=1.0), Array((1, width), 0.0)


def _dense_stack(*widths: int) -> tuple[Layer, ...]:
    return tuple(_dense(a, b) for a, b in itertools.pairwise(widths))


def _normed_stack(*widths: int) -> tuple[Layer, ...]:
    """Dense layers with a norm after each but the last."""
    *hidden, last = _dense_stack(*widths)
    pairs = zip(hidden, map(_norm, widths[1:-1]), strict=True)
    return (*itertools.chain.from_iterable(pairs), last)


def _convolutions(side: int, filters: Sequence[int], n_classes: int) -> tuple[Layer, ...]:
    """3x3 convolutions of grey images, each of which halves the side, and a dense layer."""
    stack = [_dense(9 * a, b) for a, b in itertools.pairwise((1, *filters))]
    places = math.ceil(side / 2 ** len(filters)) ** 2
    return (*stack, _dense(places * filters[-1], n_classes))


def _affine(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[M, B, outputs] of inputs [M or 1, B, inputs]."""
    return torch.baddbmm(bias, h.expand(len(weight), -1, -1), weight)


def _normalised(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, functional.layer_norm(h, h.shape[-1:]), scale)


def _mlp(layers: Sequence[Tensors], x: Tensor) -> Tensor:
    """Linear, then ReLU and Linear for each further layer."""
    h = _affine(x, *layers[0])
    for layer in layers[1:]:
        h = _affine(h.relu(), *layer)
    return h


def _normed_mlp(layers: Sequence[Tensors], x: Tensor) -> Tensor:
    """Linear, LayerNorm and ReLU for each hidden layer, then Linear."""
    h = x
    for dense, norm in zip(layers[:-1:2], layers[1:-1:2], strict=True):
        h = _normalised(_affine(h, *dense), *norm).relu()
    return _affine(h, *layers[-1])


def _cnn(layers: Sequence[Tensors], x: Tensor, side: int) -> Tensor:
    """Conv2d(3, stride=2, padding=1) and ReLU for each convolution, then Linear."""
    h = x
    for weight, bias in layers[:-1]:
        h = _affine(_patches(h, side), weight, bias).relu().view(len(weight), x.shape[1], -1)
        side = (side + 1) // 2
    return _affine(h, *layers[-1])


def _patches(x: Tensor, side: int) -> Tensor:
    """The 3x3 neighbourhoods [M, B * places, 9 c] of images [M, B, side * side * c]."""
    images = x.reshape(-1, side, side, x.shape[2] // side**2).permute(0, 3, 1, 2)
    patches = functional.unfold(images, kernel_size=3, padding=1, stride=2)  # [M * B, 9 c, places]
    return patches.transpose(1, 2).reshape(x.shape[0], -1, patches.shape[1])


def _block(features: int, steps: int, n_classes: int) -> tuple[Layer, ...]:
    """Layers of the transformer, in the order in which `_transformer` uses them."""
    hidden = _EXPANSION * _WIDTH
    position = (Array((steps, _WIDTH), _WIDTH**-0.5),)
    attention = (_norm(_WIDTH), _dense(_WIDTH, 3 * _WIDTH), _dense(_WIDTH, _WIDTH))
    feed_forward = (_norm(_WIDTH), _dense(_WIDTH, hidden), _dense(hidden, _WIDTH))
    head = (_norm(_WIDTH), _dense(_WIDTH, n_classes))
    return (_dense(features, _WIDTH), position, *attention, *feed_forward, *head)


def _transformer(layers: Sequence[Tensors], x: Tensor, steps: int) -> Tensor:
    """Linear plus learned positions, TransformerEncoder of one layer, mean over steps, Linear.

    The layer is a `torch.nn.TransformerEncoderLayer` with `norm_first` and no dropout, followed by
    a LayerNorm.
    """
    embed, (position,), norm1, qkv, out, norm2, up, down, norm3, head = layers
    copies, samples = len(position), x.shape[1]
    h = _affine(x.reshape(len(x), samples * steps, -1), *embed)
    h = h + position.repeat(1, samples, 1)
    h = h + _affine(_attention(_affine(_normalised(h, *norm1), *qkv), steps), *out)
    h = h + _affine(_affine(_normalised(h, *norm2), *up).relu(), *down)
    pooled = _normalised(h, *norm3).view(copies, samples, steps, -1).mean(dim=2)
    return _affine(pooled, *head)


def _attention(qkv: Tensor, steps: int) -> Tensor:
    """Self-attention [M, B * T, d], within each sample, of queries, keys and values side by side.

    One head: several need copies of all tensors, which cost as much as the attention.
    """
    query, key, value = qkv.view(-1, 1, steps, 3 * _WIDTH).split(_WIDTH, dim=3)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return mixed.view(len(qkv), -1, _WIDTH)
