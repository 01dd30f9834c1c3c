"""The forward pass of a Keras model up to its logits."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras

from rlhf_tune.frameworks import Link

Forward = Callable[[Any], Any]

_LINKS = (keras.activations.softmax, keras.activations.sigmoid)


def is_symbolic(model: keras.Model) -> bool:
    """Whether the model is a graph of layers (Sequential or functional), not a subclass."""
    return bool(getattr(model, "outputs", None))


def without_link(model: keras.Model) -> tuple[Forward, Link | None]:
    """The model up to its logits where its last layer shows them; else the model itself."""
    if is_symbolic(model):
        stripped = _strip(model.inputs, model.outputs[0])
        if stripped is not None:
            return stripped, "logit"
    this = weakref.ref(model)

    def whole(x: Any) -> Any:
        alive = this()
        assert alive is not None  # noqa: S101 - its caller holds it
        return alive(x, training=False)

    return whole, None


def _strip(inputs: list[Any], output: Any) -> Forward | None:
    """Of a graph of layers: its forward pass without the last activation, weights shared."""
    layer, node, _ = output._keras_history
    before = layer._inbound_nodes[node].input_tensors
    if len(before) != 1:
        return None
    nested = isinstance(layer, keras.Model) and is_symbolic(layer)
    tail = _strip(layer.inputs, layer.outputs[0]) if nested else _strip_layer(layer)
    if tail is None:
        return None
    if before[0] is inputs[0]:
        return tail
    body = keras.Model(inputs, before[0], name="rlhf_tune_body")
    return lambda x: tail(body(x, training=False))


def _strip_layer(layer: keras.Layer) -> Forward | None:
    if isinstance(layer, keras.layers.Softmax):
        return lambda x: x
    if isinstance(layer, keras.layers.Activation) and layer.activation in _LINKS:
        return lambda x: x
    known = (*_LINKS, keras.activations.linear)
    if type(layer) is not keras.layers.Dense or layer.activation not in known:
        return None

    def affine(x: Any) -> Any:
        scores = keras.ops.matmul(keras.ops.cast(x, layer.kernel.dtype), layer.kernel)
        return scores if layer.bias is None else scores + layer.bias

    return affine
